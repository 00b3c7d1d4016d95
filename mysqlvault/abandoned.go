package mysqlvault

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/vaultpool/vaultpool/rotation"
)

// abandoned remembers the sessions whose sockets were closed while the server may
// have been at work for them: the last of each generation, since what is older than
// thousands of them is most likely over.
type abandoned struct {
	mu sync.Mutex // guards what follows
	by map[*rotation.Generation][]*socket
}

const (
	abandonedSessions    = 4096
	abandonedGenerations = 8
)

func (a *abandoned) add(g *rotation.Generation, s *socket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = make(map[*rotation.Generation][]*socket)
	}
	if len(a.by) >= abandonedGenerations && a.by[g] == nil {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(a.by)), func(x, y *rotation.Generation) int {
			return cmp.Compare(x.ID(), y.ID())
		})
		delete(a.by, oldest)
	}
	list := append(a.by[g], s)
	if len(list) > abandonedSessions {
		list = slices.Clone(list[abandonedSessions/2:])
	}
	a.by[g] = list
}

func (a *abandoned) of(g *rotation.Generation) []*socket {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.by[g])
}

func (a *abandoned) forget(g *rotation.Generation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.by, g)
}
