package main

import (
	"net/http"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// health says whether the service can open database connections. Without a usable credential those that are open go
// on, so a failing check should take the service out of rotation but not restart it: a restart would throw them away.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	status := s.credentials.Status()
	if !status.Usable {
		answer := map[string]string{"status": "no usable database credential"}
		if status.LastError != nil {
			answer["error"] = status.LastError.Error()
		}
		s.reply(w, http.StatusServiceUnavailable, answer)
		return
	}
	s.reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

// statusPage is a rotation.Status for operators. It holds no secret, but user names: serve it inside only.
type statusPage struct {
	Generation  uint64           `json:"generation"`
	User        string           `json:"user"`
	Usable      bool             `json:"usable"`
	AgeSeconds  float64          `json:"age_seconds"`
	LeaseLeft   float64          `json:"lease_left_seconds"`
	Unrevoked   int              `json:"unrevoked"`
	Next        string           `json:"next"`
	NextAt      time.Time        `json:"next_at,omitzero"`
	LastError   string           `json:"last_error,omitempty"`
	Failures    int              `json:"failures,omitempty"`
	Generations []generationPage `json:"generations"`
}

type generationPage struct {
	Generation  uint64    `json:"generation"`
	User        string    `json:"user"`
	State       string    `json:"state"`
	Connections int       `json:"connections"`
	Issued      time.Time `json:"issued"`
	Expires     time.Time `json:"expires,omitzero"`
	DrainBy     time.Time `json:"drain_by,omitzero"`
	Reason      string    `json:"reason,omitempty"`
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	s.reply(w, http.StatusOK, newStatusPage(s.credentials.Status()))
}

func newStatusPage(status rotation.Status) statusPage {
	page := statusPage{
		Generation:  status.Generation,
		User:        status.User,
		Usable:      status.Usable,
		AgeSeconds:  status.Age.Seconds(),
		LeaseLeft:   status.LeaseLeft.Seconds(),
		Unrevoked:   status.Unrevoked,
		Next:        status.Next,
		NextAt:      status.NextAt,
		Failures:    status.Failures,
		Generations: []generationPage{},
	}
	if status.LastError != nil {
		page.LastError = status.LastError.Error()
	}
	for _, g := range status.Generations {
		page.Generations = append(page.Generations, generationPage{
			Generation:  g.Generation,
			User:        g.User,
			State:       string(g.State),
			Connections: g.Connections,
			Issued:      g.Issued,
			Expires:     g.Expires,
			DrainBy:     g.DrainBy,
			Reason:      g.Reason,
		})
	}
	return page
}
