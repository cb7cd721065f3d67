package chaos

import (
	"bufio"
	"reflect"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	for in, want := range map[string]any{
		"+PONG\r\n":               "PONG",
		":42\r\n":                 int64(42),
		"$5\r\nhe\r\no\r\n":       "he\r\no",
		"$0\r\n\r\n":              "",
		"$-1\r\n":                 nil,
		"*-1\r\n":                 nil,
		"*0\r\n":                  []any{},
		"*2\r\n:1\r\n$1\r\na\r\n": []any{int64(1), "a"},
		"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$4\r\ndata\r\n$2\r\n{}\r\n": []any{[]any{"1-0", []any{"data", "{}"}}},
	} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(in))); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "\r\n", "-ERR no\r\n", "$5\r\nhe", "*2\r\n:1\r\n", ":x\r\n", "?1\r\n"} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(in))); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}
