package api_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// described are the types that calls take and answer with. What they hold is
// found from them.
var described = []any{
	work.Item{}, work.Lock{}, control.Submission{}, control.Submitted{}, control.Detail{}, control.Logs{}, control.Status{}, control.Explanation{},
	control.Health{}, control.Page{}, control.Event{}, control.Import{}, control.Overview{}, control.LogLevel{}, control.Order{}, control.Queue{},
	control.QueueChange{}, control.QueueTransition{}, control.Trip{}, control.TokenRequest{}, control.NewToken{}, work.Breaker{}, work.Token{},
}

// TestSchemasHaveEveryField holds the document's schemas against the types: a
// field that only a rare answer has is described too, and nothing that there is not.
func TestSchemasHaveEveryField(t *testing.T) {
	text, err := api.OpenAPI()
	ok(t, err)
	var document struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	ok(t, json.Unmarshal(text, &document))
	seen := map[reflect.Type]bool{}
	for _, value := range described {
		eachStruct(reflect.TypeOf(value), seen)
	}
	for typ := range seen {
		schema, has := document.Components.Schemas[typ.Name()]
		if !has {
			continue // described where it is used
		}
		want, got := fields(typ), []string{}
		for name := range schema.Properties {
			got = append(got, name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("schema %s has\n%v\nthe type has\n%v", typ.Name(), got, want)
		}
	}
}

// eachStruct adds typ and every struct of ours that it is made of.
func eachStruct(typ reflect.Type, seen map[reflect.Type]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		eachStruct(typ.Elem(), seen)
	case reflect.Struct:
		if typ == reflect.TypeFor[time.Time]() || seen[typ] {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			eachStruct(typ.Field(i).Type, seen)
		}
	}
}

// fields returns the names that a struct's fields have in JSON.
func fields(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-" || !field.IsExported():
		case field.Anonymous && name == "":
			names = append(names, fields(field.Type)...)
		default:
			names = append(names, name)
		}
	}
	return names
}
