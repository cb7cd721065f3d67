// Command baseline is the least that could do the same join: one process that
// answers webhooks out of one SQLite file, without Dapr. Its 2xx is as durable,
// and it decides timeouts, keeps the index of images, and puts outcomes into a
// table from which somebody would have to publish them. There is one replica of
// it, and no way to have two.
//
// `go run ./app/local load -baseline` sends it the same webhooks.
package main

import (
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	_ "modernc.org/sqlite"
)

const schema = `
create table notification (id text primary key, state text not null, deadline integer not null, open integer not null);
create index open on notification (deadline) where open;
create table image (name text primary key, id text not null);
create table outbox (id text primary key, event text not null);`

type payload struct {
	ID     string
	Target struct{ Repository, Digest, Tag string }
}

type state struct {
	ID         string               `json:"id"`
	Repository string               `json:"repository"`
	Digest     string               `json:"digest"`
	Tag        string               `json:"tag"`
	Status     string               `json:"status"`
	StartedAt  time.Time            `json:"startedAt"`
	Deadline   time.Time            `json:"deadline"`
	Regions    map[string]time.Time `json:"regions"`
	Missing    []string             `json:"missing"`
}

type service struct {
	db            *sql.DB
	regions       []string
	authorization []byte
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: baseline ADDRESS FILE REGIONS KEY")
		os.Exit(2)
	}
	db, err := open(os.Args[2])
	if err == nil {
		s := &service{db, strings.Split(os.Args[3], ","), []byte("Bearer " + os.Args[4])}
		go s.expire()
		mux := http.NewServeMux()
		mux.HandleFunc("POST /webhooks/acr", s.receive)
		mux.HandleFunc("GET /notifications/{id}", s.status)
		mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
		err = http.ListenAndServe(os.Args[1], mux)
	}
	slog.Error("stopped", "err", err)
	os.Exit(1)
}

func open(file string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // there is one writer
	_, err = db.Exec(schema)
	return db, err
}

func (s *service) receive(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), s.authorization) != 1 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	region := r.URL.Query().Get("region")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	var p payload
	if err != nil || json.Unmarshal(body, &p) != nil || p.ID == "" || !slices.Contains(s.regions, region) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	st, err := s.add(p, region, time.Now().UTC())
	if err != nil {
		slog.Error("add", "notification", p.ID, "err", err)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	slog.Info("decided", "notification", st.ID, "region", region, "status", st.Status, "missing", st.Missing)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(st)
}

func (s *service) add(p payload, region string, now time.Time) (state, error) {
	tx, err := s.db.Begin()
	if err != nil {
		return state{}, err
	}
	defer tx.Rollback()
	st, err := load(tx, p.ID)
	if errors.Is(err, sql.ErrNoRows) {
		st = state{ID: p.ID, Repository: p.Target.Repository, Digest: p.Target.Digest, Tag: p.Target.Tag,
			Status: "collecting", StartedAt: now, Deadline: now.Add(time.Hour), Regions: map[string]time.Time{}}
		for _, name := range []string{st.Repository + "@" + st.Digest, st.Repository + ":" + st.Tag} {
			if _, err := tx.Exec(`insert or replace into image values (?, ?)`, name, st.ID); err != nil {
				return state{}, err
			}
		}
	} else if err != nil {
		return state{}, err
	}
	if _, ok := st.Regions[region]; ok {
		return st, nil
	}
	st.Regions[region] = now
	st.Missing = slices.DeleteFunc(slices.Clone(s.regions), func(r string) bool { _, ok := st.Regions[r]; return ok })
	concluded := len(st.Missing) == 0
	if concluded {
		st.Status = map[string]string{"collecting": "replicated", "timedOut": "recovered"}[st.Status]
	}
	return st, errors.Join(save(tx, st, concluded), tx.Commit())
}

func load(tx *sql.Tx, id string) (st state, err error) {
	var data []byte
	if err := tx.QueryRow(`select state from notification where id = ?`, id).Scan(&data); err != nil {
		return st, err
	}
	return st, json.Unmarshal(data, &st)
}

func save(tx *sql.Tx, st state, concluded bool) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`insert or replace into notification values (?, ?, ?, ?)`, st.ID, data, st.Deadline.Unix(), st.Status == "collecting"); err != nil {
		return err
	}
	if concluded {
		_, err = tx.Exec(`insert or replace into outbox values (?, ?)`, st.ID+"/"+st.Status, data)
	}
	return err
}

// expire decides deadlines.
func (s *service) expire() {
	for now := range time.Tick(time.Second) {
		if err := s.expireAt(now); err != nil {
			slog.Error("expire", "err", err)
		}
	}
}

func (s *service) expireAt(now time.Time) error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	rows, err := tx.Query(`select id from notification where open and deadline <= ?`, now.Unix())
	if err != nil {
		return err
	}
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, id := range ids {
		st, err := load(tx, id)
		if err != nil {
			return err
		}
		st.Status = "timedOut"
		if err := save(tx, st, true); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// status answers 409 until all regions are in.
func (s *service) status(w http.ResponseWriter, r *http.Request) {
	var data []byte
	err := s.db.QueryRow(`select state from notification where id = ?`, r.PathValue("id")).Scan(&data)
	var st state
	switch {
	case errors.Is(err, sql.ErrNoRows):
		w.WriteHeader(http.StatusNotFound)
	case err != nil || json.Unmarshal(data, &st) != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
	case st.Status != "replicated":
		w.WriteHeader(http.StatusConflict)
	default:
		w.Write(data)
	}
}
