package actor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Fields are fields of a JSON object, by name.
type Fields map[string]json.RawMessage

// Unmarshal decodes a JSON object into v, a pointer to a struct, and tells whether that
// has all the fields.
func Unmarshal(object []byte, v any) (all bool, err error) {
	d := json.NewDecoder(bytes.NewReader(object))
	d.DisallowUnknownFields()
	if d.Decode(v) == nil && !d.More() {
		return true, nil
	}
	return false, json.Unmarshal(object, v)
}

// Decode decodes a JSON object into v and returns the fields that v does not have; nil for
// none. A newer version has written them, and wants to find them again.
func Decode[T any](object []byte, v *T) (more Fields, err error) {
	all, err := Unmarshal(object, v)
	if err == nil && !all {
		more, err = Unknown[T](object)
	}
	return more, err
}

// Skipped is what nobody wants to know of a field.
type Skipped struct{}

func (Skipped) UnmarshalJSON([]byte) error { return nil }

// Unknown returns the fields of a JSON object that T, a struct, does not have; nil for
// none.
func Unknown[T any](object []byte) (more Fields, err error) {
	if err := json.Unmarshal(object, &more); err != nil {
		return nil, fmt.Errorf("decode fields: %w", err)
	}
	for _, name := range namesOf(reflect.TypeFor[T]()) {
		delete(more, name)
	}
	if len(more) == 0 {
		return nil, nil
	}
	return more, nil
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

// Marshal returns the JSON of v, a struct with at least one field in it, and behind that
// the fields of a newer version.
func Marshal(v any, more Fields) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil || len(more) == 0 {
		return data, err
	}
	tail, err := json.Marshal(more)
	if err != nil {
		return nil, err
	}
	return slices.Concat(data[:len(data)-1], []byte(","), tail[1:]), nil
}
