package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	workers        = 16
	requestsPerSec = 400 // by all workers together
	requestTimeout = 10 * time.Second
	failuresShown  = 10 // of the load's and of the service's log; the others are only counted
	accounts       = 100
)

// load sends requests at a steady rate, whatever the service does, and checks every answer.
type load struct {
	base    string
	client  *http.Client
	screen  *screen
	cancel  context.CancelFunc
	working sync.WaitGroup
	calm    sync.RWMutex // held for reading by every steady request, for writing while there are to be none

	mu     sync.Mutex // guards what follows
	totals loadResult
	second *histogram // since lastSecond was called
}

// loadResult is what was seen so far.
type loadResult struct {
	requests, failed int
	items, transfers writes
	latency          histogram
}

// writes counts what should be in the database now: at least what was confirmed, at most what was asked for.
type writes struct{ asked, confirmed int }

// startLoad runs until stop. It goes on when ctx ends.
func startLoad(ctx context.Context, base string, screen *screen) *load {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &load{
		base: base, screen: screen, cancel: cancel, second: &histogram{},
		client: &http.Client{
			Timeout:   requestTimeout,
			Transport: &http.Transport{MaxIdleConnsPerHost: workers, MaxConnsPerHost: max(workers, rushWorkers)},
		},
	}
	const interval = time.Second * workers / requestsPerSec
	for i := range workers {
		w := &worker{load: l, number: i}
		l.working.Go(func() { w.run(ctx, time.Now().Add(interval*time.Duration(i)/workers), interval) })
	}
	return l
}

// stop returns when the last request under way is answered.
func (l *load) stop() {
	l.cancel()
	l.working.Wait()
	l.client.CloseIdleConnections()
}

// pause lets the requests under way finish, and keeps the next ones back until resume is called.
func (l *load) pause() (resume func()) {
	l.calm.Lock()
	return l.calm.Unlock
}

func (l *load) result() loadResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals
}

// lastSecond returns the latencies since it was called last.
func (l *load) lastSecond() *histogram {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.second
	l.second = &histogram{}
	return h
}

// record counts one request, and shows the first failures.
func (l *load) record(op operation, took time.Duration, err error) {
	l.mu.Lock()
	t := &l.totals
	t.requests++
	t.latency.add(took)
	l.second.add(took)
	if err != nil {
		t.failed++
	}
	switch op {
	case createItem:
		t.items.count(err)
	case transferMoney:
		t.transfers.count(err)
	}
	failed := t.failed
	l.mu.Unlock()
	if err != nil && failed <= failuresShown {
		l.screen.printf("FAILED after %s: %v", milliseconds(took), err)
	}
}

func (w *writes) count(err error) {
	w.asked++
	if err == nil {
		w.confirmed++
	}
}

// operation is one kind of request.
type operation int

const (
	readItem operation = iota
	listItems
	readAccount
	createItem
	transferMoney
)

// pick chooses the next operation: two of three are reads.
func pick() operation {
	switch n := rand.IntN(100); {
	case n < 50:
		return readItem
	case n < 60:
		return listItems
	case n < 67:
		return readAccount
	case n < 83:
		return createItem
	default:
		return transferMoney
	}
}

// worker sends one request after the other.
type worker struct {
	load   *load
	number int
	made   []item // what it has created lately, to read it again
	count  int
}

const remembered = 500

// run sends a request every interval. One that is due while another is still under way is sent right after, and its
// time counts from when it was due, so that a slow answer is not hidden by the requests that it held up.
func (w *worker) run(ctx context.Context, due time.Time, interval time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		began := due
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			began = time.Now() // our own timer's lateness is not the service's
		} else if ctx.Err() != nil {
			return
		}
		if !w.load.calm.TryRLock() { // there is to be no load now
			w.load.calm.RLock()
			due = time.Now().Add(rand.N(interval)) // not all at once
			w.load.calm.RUnlock()
			continue
		}
		op := pick()
		if len(w.made) == 0 {
			op = createItem
		}
		err := w.do(context.WithoutCancel(ctx), op)
		w.load.record(op, time.Since(began), err)
		w.load.calm.RUnlock()
		due = due.Add(interval)
	}
}

func (w *worker) do(ctx context.Context, op operation) error {
	switch op {
	case readItem:
		return w.readItem(ctx)
	case listItems:
		return w.listItems(ctx)
	case readAccount:
		return w.readAccount(ctx)
	case createItem:
		return w.createItem(ctx)
	default:
		return w.transfer(ctx)
	}
}

type item struct {
	ID       int64  `json:"id"`
	Name     string `json:"name"`
	Quantity int    `json:"quantity"`
}

func (w *worker) createItem(ctx context.Context) error {
	w.count++
	wanted := item{Name: fmt.Sprintf("item %d of worker %d", w.count, w.number), Quantity: w.count % 1000}
	var made item
	err := w.load.ask(ctx, http.MethodPost, "/items", map[string]any{"name": wanted.Name, "quantity": wanted.Quantity}, &made)
	if err != nil {
		return err
	}
	wanted.ID = made.ID
	if made != wanted || made.ID == 0 {
		return fmt.Errorf("POST /items of %+v answered %+v", wanted, made)
	}
	if len(w.made) < remembered {
		w.made = append(w.made, made)
	} else {
		w.made[w.count%remembered] = made
	}
	return nil
}

func (w *worker) readItem(ctx context.Context) error {
	wanted := w.made[rand.IntN(len(w.made))]
	var found item
	path := fmt.Sprintf("/items/%d", wanted.ID)
	if err := w.load.ask(ctx, http.MethodGet, path, nil, &found); err != nil {
		return err
	}
	if found != wanted {
		return fmt.Errorf("GET %s answered %+v, want %+v", path, found, wanted)
	}
	return nil
}

func (w *worker) listItems(ctx context.Context) error {
	var found []item
	if err := w.load.ask(ctx, http.MethodGet, "/items?limit=10", nil, &found); err != nil {
		return err
	}
	if len(found) == 0 || len(found) > 10 || found[0].ID < w.made[len(w.made)-1].ID {
		return fmt.Errorf("GET /items?limit=10 answered %d items, without the newest: %+v", len(found), found)
	}
	return nil
}

func (w *worker) readAccount(ctx context.Context) error {
	id := 1 + rand.Int64N(accounts)
	var found struct{ ID, Balance int64 }
	path := fmt.Sprintf("/accounts/%d", id)
	if err := w.load.ask(ctx, http.MethodGet, path, nil, &found); err != nil {
		return err
	}
	if found.ID != id || found.Balance < 0 {
		return fmt.Errorf("GET %s answered %+v", path, found)
	}
	return nil
}

func (w *worker) transfer(ctx context.Context) error {
	from, step := rand.Int64N(accounts), 1+rand.Int64N(accounts-1) // never to itself
	return w.load.transfer(ctx, from+1, (from+step)%accounts+1)
}

func (l *load) transfer(ctx context.Context, from, to int64) error {
	type transfer struct {
		ID     int64 `json:"id,omitempty"`
		From   int64 `json:"from"`
		To     int64 `json:"to"`
		Amount int64 `json:"amount"`
	}
	wanted := transfer{From: from, To: to, Amount: 1 + rand.Int64N(10)}
	var made transfer
	if err := l.ask(ctx, http.MethodPost, "/transfers", wanted, &made); err != nil {
		return err
	}
	wanted.ID = made.ID
	if made != wanted || made.ID == 0 {
		return fmt.Errorf("POST /transfers of %+v answered %+v", wanted, made)
	}
	return nil
}

// rush has that many workers transfer money between the same two accounts, as fast as they are answered, until ctx ends.
func (l *load) rush(ctx context.Context, workers int) *loadResult {
	var (
		running sync.WaitGroup
		mu      sync.Mutex // guards result
		result  loadResult
	)
	for i := range workers {
		from, to := int64(1+i%2), int64(2-i%2)
		running.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := l.transfer(context.WithoutCancel(ctx), from, to)
				took := time.Since(began)
				mu.Lock()
				result.requests++
				result.latency.add(took)
				if err != nil {
					result.failed++
				}
				failed := result.failed
				mu.Unlock()
				l.recordRush(took, err)
				if err != nil && failed <= failuresShown {
					l.screen.printf("FAILED after %s, in the rush: %v", milliseconds(took), err)
				}
			}
		})
	}
	running.Wait()
	return &result
}

// recordRush counts one transfer of a rush, whose latency is part of that second's, and not of the steady load's.
func (l *load) recordRush(took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.requests++
	l.second.add(took)
	l.totals.transfers.count(err)
	if err != nil {
		l.totals.failed++
	}
}

// ask sends one request and reads its answer. Anything but a success is an error.
func (l *load) ask(ctx context.Context, method, path string, body, answer any) error {
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, l.base+path, content)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	response, err := l.client.Do(request)
	if err != nil {
		return err // it names method and address
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(text))
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}
