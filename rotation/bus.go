package rotation

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// backlog is how many events wait for one subscriber.
const backlog = 256

// bus hands events to subscribers, each in a goroutine of its own, and to the
// log. publish never blocks.
type bus struct {
	serving sync.WaitGroup

	mu     sync.Mutex // guards what follows; held for no call out
	subs   map[*subscriber]struct{}
	closed bool
}

type subscriber struct {
	f     func(Event)
	ready chan struct{} // something is queued, or the end

	mu     sync.Mutex // guards what follows
	queue  []Event
	missed int
	ended  bool
}

// init makes the log the first subscriber: its handler is somebody's code too.
func (b *bus) init(log *slog.Logger) {
	b.subs = make(map[*subscriber]struct{})
	if log == nil {
		return
	}
	b.subscribe(func(e Event) {
		log.LogAttrs(context.Background(), level(e), "vaultpool: "+string(e.Kind), e.attrs()...)
	})
}

func (b *bus) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.put(e)
	}
}

func level(e Event) slog.Level {
	switch {
	case e.Err != nil, e.Kind == CredentialLost, e.Kind == DrainDeadline:
		return slog.LevelWarn
	case e.Kind == Renewed, e.Kind == Refreshed, e.Kind == Drained:
		return slog.LevelDebug
	default:
		return slog.LevelInfo
	}
}

func (b *bus) subscribe(f func(Event)) (cancel func()) {
	s := &subscriber{f: f, ready: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return func() {}
	}
	b.subs[s] = struct{}{}
	b.serving.Go(func() { b.serve(s) })
	return func() {
		b.remove(s)
		s.end(true)
	}
}

func (b *bus) remove(s *subscriber) {
	b.mu.Lock()
	delete(b.subs, s)
	b.mu.Unlock()
}

// close lets every subscriber have what is queued, and ends.
func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		s.end(false)
	}
}

func (b *bus) serve(s *subscriber) {
	defer func() {
		b.remove(s)
		if v := recover(); v != nil {
			b.publish(Event{Time: time.Now(), Kind: SubscriberFailed, Err: fmt.Errorf("an event subscriber panicked and gets no more events: %v", v)})
		}
	}()
	for range s.ready {
		for {
			e, ok := s.take()
			if !ok {
				break
			}
			s.f(e)
		}
	}
}

func (s *subscriber) put(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if len(s.queue) >= backlog {
		s.missed++
		return
	}
	e.Missed, s.missed = s.missed, 0
	s.queue = append(s.queue, e)
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *subscriber) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 && s.missed > 0 {
		e := Event{Time: time.Now(), Kind: EventsMissed, Missed: s.missed}
		s.missed = 0
		return e, true
	}
	if len(s.queue) == 0 {
		return Event{}, false
	}
	e := s.queue[0]
	s.queue = s.queue[1:]
	return e, true
}

// end lets serve return once the queue is empty, or emptied.
func (s *subscriber) end(now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now {
		s.queue, s.missed = nil, 0
	}
	if !s.ended {
		s.ended = true
		close(s.ready)
	}
}
