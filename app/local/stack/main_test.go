package stack

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"allregions/app/local/process"
)

// Most of their time these tests wait for deadlines and reminders: more of them than
// there are cores can run at once.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set("8")
	}
	code := m.Run()
	if built != "" {
		os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(code)
}

var (
	raceEnabled bool   // whether the tests have the race detector: then the service has it, too
	built       string // the service, once a test has asked for it
)

var buildOnce = sync.OnceValue(func() error {
	root, err := Root(context.Background())
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", AppID+"-program-")
	if err != nil {
		return err
	}
	built = filepath.Join(dir, "service")
	return process.GoBuild(context.Background(), root, built, "-race="+strconv.FormatBool(raceEnabled), "./app")
})

// program is the service that the tests share.
func program(t *testing.T) string {
	t.Helper()
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
	return built
}
