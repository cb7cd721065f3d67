package actor

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Fields are the fields of a JSON object, by name.
type Fields map[string]json.RawMessage

// ParseFields returns the fields of a JSON object. Without an object there are none.
func ParseFields(object []byte) (fields Fields, err error) {
	if len(object) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(object, &fields); err != nil {
		return nil, fmt.Errorf("decode fields: %w", err)
	}
	return fields, nil
}

// Unknown returns those of the fields that T, a struct, does not have: a newer version
// has written them, and wants to find them again.
func Unknown[T any](fields Fields) Fields {
	unknown := Fields{}
	known := namesOf(reflect.TypeFor[T]())
	for name, value := range fields {
		if !slices.Contains(known, name) {
			unknown[name] = value
		}
	}
	return unknown
}

func namesOf(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		} else if f.Anonymous {
			names = append(names, namesOf(f.Type)...)
		}
	}
	return names
}

// AddTo returns the JSON object with the fields, which must not be among its own.
func (f Fields) AddTo(object []byte) ([]byte, error) {
	if len(f) == 0 {
		return object, nil
	}
	more, err := json.Marshal(f)
	if err != nil || string(object) == "{}" {
		return more, err
	}
	return slices.Concat(object[:len(object)-1], []byte(","), more[1:]), nil
}

// Inherit adds those of the fields that f does not have.
func (f Fields) Inherit(from Fields) {
	for name, value := range from {
		if _, ok := f[name]; !ok {
			f[name] = value
		}
	}
}
