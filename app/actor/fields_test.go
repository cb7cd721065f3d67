package actor

import "testing"

type Inner struct {
	B     int `json:"b,omitempty"`
	Inner int `json:"c"` // not hidden by the name of its struct
}

type known struct {
	A int `json:"a"`
	Inner
}

func TestFields(t *testing.T) {
	for _, tt := range []struct{ name, stored, saved, want string }{
		{"nothing was stored", "", `{"a":1}`, `{"a":1}`},
		{"all is known", `{"a":1,"b":2,"c":4}`, `{"a":3}`, `{"a":3}`},
		{"more is stored", `{"z":{"y":[1, 2]},"a":1,"d":null,"b":2}`, `{"a":3}`, `{"a":3,"d":null,"z":{"y":[1,2]}}`},
		{"nothing is saved", `{"z":1}`, `{}`, `{"z":1}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fields, err := ParseFields([]byte(tt.stored))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Unknown[known](fields).AddTo([]byte(tt.saved)); err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
	for _, broken := range []string{"[]", "{", `"a"`} {
		if _, err := ParseFields([]byte(broken)); err == nil {
			t.Errorf("%s: no error", broken)
		}
	}
}

func TestInherit(t *testing.T) {
	f := Fields{"a": []byte("1")}
	f.Inherit(Fields{"a": []byte("2"), "b": []byte("3")})
	if got, err := f.AddTo([]byte("{}")); err != nil || string(got) != `{"a":1,"b":3}` {
		t.Errorf("got %s, %v", got, err)
	}
}
