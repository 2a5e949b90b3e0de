package work

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
)

// StoredFormat is the number of the layout in which this version stores: of the
// keys, and of what their values mean. A server that finds a higher one does not
// lead. Data without a number has the layout of drover before there was one.
const StoredFormat = 2

// Format is what is stored of the layout.
type Format struct {
	Number  int       `json:"format"`
	Version string    `json:"version,omitempty"` // of the server that wrote it
	At      time.Time `json:"at"`
	Unknown Unknown   `json:"-"`
}

// Unknown are the members of a stored JSON object that this version has no field
// for, because a newer one wrote them. DecodeStored fills it and EncodeStored
// writes it back, so that they survive a rewrite.
type Unknown map[string]json.RawMessage

// EncodeStored returns v as it is stored: JSON in which <, > and & take one byte
// each, with the Unknown members that v has read.
func EncodeStored(v any) ([]byte, error) {
	data, err := plainJSON(v)
	if err != nil {
		return nil, err
	}
	value := reflect.ValueOf(v)
	if !hasUnknown(value) {
		return data, nil
	}
	return withUnknown(data, value)
}

func plainJSON(v any) ([]byte, error) {
	const small = 2 << 10 // of an item, as a rule
	buf := bytes.NewBuffer(make([]byte, 0, small))
	encoder := json.NewEncoder(buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// DecodeStored reads what EncodeStored wrote, whichever version did so.
func DecodeStored[T any](data []byte) (T, error) {
	var strict, v T
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&strict) == nil {
		return strict, nil // nothing unknown, as nearly always
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, err
	}
	keepUnknown(data, reflect.ValueOf(&v).Elem())
	return v, nil
}

// storedType says how a struct is stored.
type storedType struct {
	fields  map[string]int // index by JSON name
	names   []string       // JSON name by index, empty for a field that is not stored
	inner   []int          // fields that may hold Unknown somewhere below
	unknown int            // index of the field of type Unknown, -1 if there is none
}

var (
	storedTypes sync.Map // *storedType by reflect.Type
	typeUnknown = reflect.TypeFor[Unknown]()
)

func storedTypeOf(t reflect.Type) *storedType {
	if known, ok := storedTypes.Load(t); ok {
		return known.(*storedType)
	}
	s := &storedType{fields: map[string]int{}, names: make([]string, t.NumField()), unknown: -1}
	for i := range t.NumField() {
		field := t.Field(i)
		if field.Type == typeUnknown {
			s.unknown = i
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" || !field.IsExported() {
			continue
		}
		s.names[i] = or(name, field.Name)
		s.fields[s.names[i]] = i
		if mayHold(field.Type) {
			s.inner = append(s.inner, i)
		}
	}
	storedTypes.Store(t, s)
	return s
}

// mayHold reports whether a value of the type may hold Unknown. No stored type
// holds itself.
func mayHold(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return mayHold(t.Elem())
	case reflect.Struct:
		s := storedTypeOf(t)
		return s.unknown >= 0 || len(s.inner) > 0
	}
	return false
}

func hasUnknown(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return !v.IsNil() && hasUnknown(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			if hasUnknown(v.Index(i)) {
				return true
			}
		}
	case reflect.Struct:
		s := storedTypeOf(v.Type())
		if s.unknown >= 0 && v.Field(s.unknown).Len() > 0 {
			return true
		}
		for _, i := range s.inner {
			if hasUnknown(v.Field(i)) {
				return true
			}
		}
	}
	return false
}

// keepUnknown fills the Unknown of v and of what it holds. v was decoded from data.
func keepUnknown(data []byte, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			keepUnknown(data, v.Elem())
		}
	case reflect.Slice:
		var elements []json.RawMessage
		if !mayHold(v.Type()) || json.Unmarshal(data, &elements) != nil {
			return
		}
		for i := range min(len(elements), v.Len()) {
			keepUnknown(elements[i], v.Index(i))
		}
	case reflect.Struct:
		var members map[string]json.RawMessage
		if !mayHold(v.Type()) || json.Unmarshal(data, &members) != nil {
			return
		}
		s := storedTypeOf(v.Type())
		unknown := Unknown{}
		for name, member := range members {
			if i, known := s.fields[name]; known {
				keepUnknown(member, v.Field(i))
			} else {
				unknown[name] = member
			}
		}
		if s.unknown >= 0 && len(unknown) > 0 {
			v.Field(s.unknown).Set(reflect.ValueOf(unknown))
		}
	}
}

// withUnknown returns data, which v was encoded to, with the Unknown of v and of
// what it holds.
func withUnknown(data []byte, v reflect.Value) ([]byte, error) {
	if !hasUnknown(v) {
		return data, nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		return withUnknown(data, v.Elem())
	case reflect.Slice:
		var elements []json.RawMessage
		if err := json.Unmarshal(data, &elements); err != nil {
			return nil, fmt.Errorf("merge unknown members: %w", err)
		}
		for i := range elements {
			merged, err := withUnknown(elements[i], v.Index(i))
			if err != nil {
				return nil, err
			}
			elements[i] = merged
		}
		return plainJSON(elements)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("merge unknown members: %w", err)
	}
	s := storedTypeOf(v.Type())
	for _, i := range s.inner {
		member, stored := members[s.names[i]]
		if !stored {
			continue
		}
		merged, err := withUnknown(member, v.Field(i))
		if err != nil {
			return nil, err
		}
		members[s.names[i]] = merged
	}
	if s.unknown >= 0 {
		for name, member := range v.Field(s.unknown).Interface().(Unknown) {
			if _, known := members[name]; !known {
				members[name] = member
			}
		}
	}
	return plainJSON(members)
}
