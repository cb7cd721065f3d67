package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// measureBaseline sends the trains to the program in baseline, which does the same
// without Dapr.
func measureBaseline(ctx context.Context, trains []train, mode, regions string, concurrency int) (*loadReport, error) {
	root, err := stack.Root(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "allregions-baseline-")
	if err != nil {
		return nil, fmt.Errorf("temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "baseline")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	build.Dir = filepath.Join(root, "app", "local", "baseline")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the baseline: %w: %s", err, bytes.TrimSpace(out))
	}

	var port int
	if err := process.FreePorts(&port); err != nil {
		return nil, err
	}
	group, err := process.NewGroup()
	if err != nil {
		return nil, err
	}
	defer group.Stop(time.Second)
	const key = "baseline"
	address := "127.0.0.1:" + strconv.Itoa(port)
	p, err := group.Start("baseline", exec.Command(program, address, filepath.Join(dir, "baseline.db"), regions, key))
	if err != nil {
		return nil, err
	}
	url := "http://" + address
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, err := replicated(ctx, url+"/readyz", key); err == nil && status == http.StatusOK {
			break
		} else if time.Now().After(deadline) {
			return nil, fmt.Errorf("the baseline is not ready: %d, %w", status, err)
		}
	}
	r, err := at(url, key, p).fire(ctx, trains, concurrency)
	if err != nil {
		return nil, err
	}
	r.Mode, r.Concurrency = mode, concurrency
	return r, r.countJoins(ctx, url, key, trains, concurrency)
}
