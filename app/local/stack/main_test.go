package stack

import (
	"flag"
	"os"
	"testing"
)

// Most of their time these tests wait for deadlines and reminders: more of them than
// there are cores can run at once.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set("8")
	}
	os.Exit(m.Run())
}
