// Package baseline is the least that could do the same join: one process that
// answers webhooks out of one SQLite file, without Dapr. Its 2xx is as durable,
// and it decides timeouts, keeps the index of images, and puts outcomes into a
// table from which somebody would have to publish them. There is one replica of
// it, and no way to have two.
//
// BenchmarkBaseline of package load sends it the same webhooks. Its test binary is the
// program.
package baseline

import (
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

const schema = `
create table notification (id text primary key, repository text, digest text, tag text, status text, deadline integer, regions text);
create index collecting on notification (deadline) where status = 'collecting';
create table image (name text primary key, id text);
create table outbox (id text primary key, regions text);
create trigger outcome after update of status on notification when new.status <> old.status
begin insert into outbox values (new.id || '/' || new.status, new.regions); end;`

type payload struct {
	ID     string
	Target struct{ Repository, Digest, Tag string }
}

type service struct {
	db            *sql.DB
	regions       []string
	authorization []byte
}

func TestMain(*testing.M) {
	if len(os.Args) != 5 {
		fmt.Println("started by BenchmarkBaseline of package load, with ADDRESS FILE REGIONS KEY")
		return
	}
	slog.Error("stopped", "err", run(os.Args[1], os.Args[2], strings.Split(os.Args[3], ","), os.Args[4]))
	os.Exit(1)
}

func run(address, file string, regions []string, key string) error {
	db, err := sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1) // there is one writer
	if _, err := db.Exec(schema); err != nil {
		return err
	}
	s := &service{db, regions, []byte("Bearer " + key)}
	go s.expire()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhooks/acr", s.receive)
	mux.HandleFunc("GET /notifications/{id}", s.status)
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	return http.ListenAndServe(address, mux)
}

func (s *service) receive(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), s.authorization) != 1 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	region := r.URL.Query().Get("region")
	var p payload
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&p)
	if err != nil || p.ID == "" || !slices.Contains(s.regions, region) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	status, err := s.add(p, region, time.Now())
	if err != nil {
		slog.Error("add", "notification", p.ID, "err", err)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	slog.Info("decided", "notification", p.ID, "region", region, "status", status)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(map[string]string{"id": p.ID, "status": status})
}

// add returns the status of the notification with the region in it.
func (s *service) add(p payload, region string, now time.Time) (status string, err error) {
	tx, err := s.db.Begin()
	if err != nil {
		return "", err
	}
	defer tx.Rollback()
	data := []byte("{}")
	err = tx.QueryRow(`select status, regions from notification where id = ?`, p.ID).Scan(&status, &data)
	if errors.Is(err, sql.ErrNoRows) {
		status = "collecting"
		_, err = tx.Exec(`
			insert into notification values (?1, ?2, ?3, ?4, 'collecting', ?5, '');
			insert or replace into image values (?2 || '@' || ?3, ?1), (?2 || ':' || ?4, ?1)`,
			p.ID, p.Target.Repository, p.Target.Digest, p.Target.Tag, now.Add(time.Hour).Unix())
	}
	regions := map[string]time.Time{}
	if err := errors.Join(err, json.Unmarshal(data, &regions)); err != nil {
		return "", err
	}
	if _, ok := regions[region]; ok {
		return status, nil
	}
	regions[region] = now
	if len(regions) == len(s.regions) {
		status = map[string]string{"collecting": "replicated", "timedOut": "recovered"}[status]
	}
	if data, err = json.Marshal(regions); err != nil {
		return "", err
	}
	if _, err := tx.Exec(`update notification set status = ?, regions = ? where id = ?`, status, data, p.ID); err != nil {
		return "", err
	}
	return status, tx.Commit()
}

// expire decides deadlines.
func (s *service) expire() {
	for now := range time.Tick(time.Second) {
		if _, err := s.db.Exec(`update notification set status = 'timedOut' where status = 'collecting' and deadline <= ?`, now.Unix()); err != nil {
			slog.Error("expire", "err", err)
		}
	}
}

// status answers 409 until all regions are in.
func (s *service) status(w http.ResponseWriter, r *http.Request) {
	var status string
	err := s.db.QueryRow(`select status from notification where id = ?`, r.PathValue("id")).Scan(&status)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		w.WriteHeader(http.StatusNotFound)
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
	case status != "replicated":
		w.WriteHeader(http.StatusConflict)
	}
}
