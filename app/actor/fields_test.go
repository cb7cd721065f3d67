package actor

import "testing"

type Inner struct {
	B     int `json:"b,omitempty"`
	Inner int `json:"c,omitempty"` // not hidden by the name of its struct
}

type known struct {
	A int `json:"a"`
	Inner
	hidden int
}

func TestFields(t *testing.T) {
	for _, tt := range []struct{ name, stored, want string }{
		{"all is known", `{"a":1,"b":2,"c":4}`, `{"a":3}`},
		{"more is stored", `{"z":{"y":[1, 2]},"a":1,"d":null,"b":2}`, `{"a":3,"d":null,"z":{"y":[1,2]}}`},
		{"a field without a name in JSON", `{"hidden":1}`, `{"a":3,"hidden":1}`},
		{"nothing is stored", `{}`, `{"a":3}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var k known
			all, err := Unmarshal([]byte(tt.stored), &k)
			if wantAll := tt.want == `{"a":3}`; err != nil || all != wantAll {
				t.Errorf("all %v, %v", all, err)
			}
			more, err := Unknown[known]([]byte(tt.stored))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Marshal(known{A: 3, hidden: 1}, more); err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
	for _, broken := range []string{"", "[]", "{", `"a"`, `{"a":1}{`, `{"z":1}}`} {
		if _, err := Unknown[known]([]byte(broken)); err == nil {
			t.Errorf("%s: no error", broken)
		}
		if all, err := Unmarshal([]byte(broken), new(known)); err == nil || all {
			t.Errorf("%s: all %v, %v", broken, all, err)
		}
	}
	if _, err := Marshal(known{}, Fields{"z": []byte("{")}); err == nil {
		t.Error("a field that is no JSON: no error")
	}
}
