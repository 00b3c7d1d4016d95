package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

const (
	maxBody      = 1 << 20
	defaultLimit = 20
	maxLimit     = 100
)

type server struct {
	store   store
	timeout time.Duration // of a request
	logger  *slog.Logger
}

// mount adds what the service is for.
func (s *server) mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /items", s.handle(s.listItems))
	mux.HandleFunc("POST /items", s.handle(s.createItem))
	mux.HandleFunc("GET /items/{id}", s.handle(s.getItem))
	mux.HandleFunc("GET /accounts/{id}", s.handle(s.getAccount))
	mux.HandleFunc("POST /transfers", s.handle(s.createTransfer))
}

// badRequestError is an error whose text the client may see.
type badRequestError struct{ message string }

func (e badRequestError) Error() string { return e.message }

// handle bounds a request's time and size, and answers with what the handler returns.
func (s *server) handle(handler func(*http.Request) (code int, answer any, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		code, answer, err := handler(r.WithContext(ctx))
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.reply(w, code, answer)
	}
}

// fail tells the client as much as is its business, and the log the rest.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code, message := http.StatusInternalServerError, "internal error"
	var bad badRequestError
	var noCredential *rotation.NoCredentialError
	switch {
	case errors.As(err, &bad):
		code, message = http.StatusBadRequest, bad.message
	case errors.Is(err, errNotFound):
		code, message = http.StatusNotFound, "not found"
	case errors.Is(err, errInsufficient):
		code, message = http.StatusConflict, errInsufficient.Error()
	case errors.As(err, &noCredential):
		code, message = http.StatusServiceUnavailable, "the database cannot be used for now"
		if wait := time.Until(noCredential.RetryAt); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		}
	case errors.Is(err, context.DeadlineExceeded):
		code, message = http.StatusGatewayTimeout, "the database took too long"
	}
	if code >= http.StatusInternalServerError {
		s.logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err.Error())
	}
	s.reply(w, code, map[string]string{"error": message})
}

func (s *server) reply(w http.ResponseWriter, code int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.logger.Info("the client did not take its answer", "error", err.Error())
	}
}

func (s *server) listItems(r *http.Request) (int, any, error) {
	limit := int64(defaultLimit)
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if limit, err = strconv.ParseInt(text, 10, 32); err != nil || limit < 1 || limit > maxLimit {
			return 0, nil, badRequestError{fmt.Sprintf("limit must be a number from 1 to %d", maxLimit)}
		}
	}
	items, err := s.store.listItems(r.Context(), int32(limit))
	return http.StatusOK, items, err
}

func (s *server) createItem(r *http.Request) (int, any, error) {
	var wanted struct {
		Name     string `json:"name"`
		Quantity int32  `json:"quantity"`
	}
	if err := decode(r, &wanted); err != nil {
		return 0, nil, err
	}
	if wanted.Name == "" || wanted.Quantity < 0 {
		return 0, nil, badRequestError{"an item needs a name and a quantity of 0 or more"}
	}
	made, err := s.store.createItem(r.Context(), wanted.Name, wanted.Quantity)
	return http.StatusCreated, made, err
}

func (s *server) getItem(r *http.Request) (int, any, error) {
	id, err := pathID(r)
	if err != nil {
		return 0, nil, err
	}
	found, err := s.store.item(r.Context(), id)
	return http.StatusOK, found, err
}

func (s *server) getAccount(r *http.Request) (int, any, error) {
	id, err := pathID(r)
	if err != nil {
		return 0, nil, err
	}
	found, err := s.store.account(r.Context(), id)
	return http.StatusOK, found, err
}

func (s *server) createTransfer(r *http.Request) (int, any, error) {
	var wanted transfer
	if err := decode(r, &wanted); err != nil {
		return 0, nil, err
	}
	if wanted.Amount <= 0 || wanted.From == wanted.To {
		return 0, nil, badRequestError{"a transfer needs two different accounts and an amount above 0"}
	}
	made, err := s.store.transfer(r.Context(), wanted)
	return http.StatusCreated, made, err
}

func pathID(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return 0, badRequestError{"the id must be a number"}
	}
	return id, nil
}

func decode(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return badRequestError{"the body is not the JSON that was expected: " + err.Error()}
	}
	return nil
}
