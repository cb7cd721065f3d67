package registry

import "testing"

func TestKeepUnknown(t *testing.T) {
	for _, tt := range []struct{ name, old, known, data, want string }{
		{"nothing before", ``, ``, `{"a":1}`, `{"a":1}`},
		{"nothing unknown", `{"a":1}`, `{"a":1}`, `{"a":2}`, `{"a":2}`},
		{"at the top", `{"a":1,"x":[1]}`, `{"a":1}`, `{"a":2}`, `{"a":2,"x":[1]}`},
		{"taken out", `{"a":1,"b":2}`, `{"a":1,"b":2}`, `{"a":1}`, `{"a":1}`},
		{"further down", `{"a":{"b":1,"x":{"y":2}}}`, `{"a":{"b":1}}`, `{"a":{"b":3}}`, `{"a":{"b":3,"x":{"y":2}}}`},
		{"below what is taken out", `{"a":{"b":1,"x":2}}`, `{"a":{"b":1}}`, `{}`, `{}`},
		{"large numbers", `{"x":9007199254740993}`, `{}`, `{"a":1}`, `{"a":1,"x":9007199254740993}`},
		{"a list is a value", `{"a":[{"b":1,"x":2}]}`, `{"a":[{"b":1}]}`, `{"a":[{"b":3}]}`, `{"a":[{"b":3}]}`},
		{"no object any more", `{"a":{"x":2}}`, `{"a":{}}`, `{"a":null}`, `{"a":null}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(keepUnknown([]byte(tt.old), []byte(tt.known), []byte(tt.data))); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
