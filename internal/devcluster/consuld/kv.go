package consuld

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxValueBytes is Consul's kv_max_value_size.
const maxValueBytes = 512 * 1024

const (
	configDocs     = "https://www.consul.io/docs/agent/config/config-files"
	missingKeyName = "Missing key name"
)

// keyPattern is what Consul 1.21.5 and 1.22.0 demand of a key in /v1/kv
// (hashicorp/consul#22682), the strictest rule that was published. Later ones take
// other characters, but no segment of two dots, encoded or not (#22850).
const keyPattern = `^[a-zA-Z0-9,_./\-?&=]+$`

var validKey = regexp.MustCompile(keyPattern)

// checkKey returns Consul's refusal of a key.
func checkKey(key string) error {
	if !validKey.MatchString(key) {
		return refusal("invalid key name, keys should respect the %q format", keyPattern)
	}
	if slices.Contains(strings.Split(key, "/"), "..") {
		return badRequest("invalid key name, keys must not have a segment of two dots")
	}
	return nil
}

var errMissingSession = errors.New("missing session")

func (s *Server) serveKV(w http.ResponseWriter, r *http.Request) (any, error) {
	key := strings.TrimPrefix(r.URL.Path, "/v1/kv/")
	params := r.URL.Query()
	if err := checkKey(key); key != "" && err != nil {
		return nil, err
	}
	switch {
	case r.Method == http.MethodPut:
		return s.putKey(r, key, params)
	case r.Method == http.MethodDelete:
		return s.deleteKey(key, params)
	case params.Has("keys"):
		return s.listKeys(w, r, key, params)
	case params.Has("recurse"):
		return s.listEntries(w, r, key)
	default:
		return s.getKey(w, r, key, params)
	}
}

func (s *Server) getKey(w http.ResponseWriter, r *http.Request, key string, params url.Values) (any, error) {
	if key == "" {
		return nil, badRequest(missingKeyName)
	}
	found, err := s.query(w, r, func() view {
		e := s.kv.entries[key]
		v := view{index: s.kv.index, notFound: e == nil, touched: onKey(key), body: func() any { return e }}
		if e != nil {
			v.index = e.ModifyIndex
		}
		return v
	})
	if err != nil {
		return nil, err
	}
	e := found.(*entry)
	switch {
	case e == nil:
		w.WriteHeader(http.StatusNotFound)
		return nil, nil
	case params.Has("raw"):
		writeRaw(w, e.Value)
		return nil, nil
	}
	return []*entry{e}, nil
}

// writeRaw sends a value as it is, in a way no browser will execute.
func writeRaw(w http.ResponseWriter, value []byte) {
	h := w.Header()
	h.Set("Content-Length", strconv.Itoa(len(value)))
	h.Set("Content-Type", "text/plain")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox")
	_, _ = w.Write(value) // the client has gone; nobody is left to tell
}

func (s *Server) listEntries(w http.ResponseWriter, r *http.Request, prefix string) (any, error) {
	found, err := s.query(w, r, func() view { return s.lookUnder(prefix) })
	if err != nil {
		return nil, err
	}
	entries := found.([]*entry)
	if len(entries) == 0 {
		w.WriteHeader(http.StatusNotFound)
		return nil, nil
	}
	return entries, nil
}

func (s *Server) lookUnder(prefix string) view {
	entries, index := s.kv.list(prefix)
	v := view{index: index, touched: onPrefix(prefix), body: func() any { return entries }}
	if len(entries) == 0 {
		v.touched = onTable(kvChanged) // an empty prefix has no place of its own to watch
	}
	return v
}

func (s *Server) listKeys(w http.ResponseWriter, r *http.Request, prefix string, params url.Values) (any, error) {
	found, err := s.query(w, r, func() view { return s.lookUnder(prefix) })
	if err != nil {
		return nil, err
	}
	keys := cutKeys(found.([]*entry), prefix, params.Get("separator"))
	if len(keys) == 0 && prefix != "" {
		w.WriteHeader(http.StatusNotFound)
		return nil, nil
	}
	return keys, nil
}

// cutKeys lists keys up to the first separator after the prefix, each once.
func cutKeys(entries []*entry, prefix, separator string) []string {
	keys := []string{}
	for _, e := range entries {
		key := e.Key
		if separator != "" {
			if head, _, cut := strings.Cut(key[len(prefix):], separator); cut {
				key = prefix + head + separator
			}
		}
		if len(keys) == 0 || keys[len(keys)-1] != key { // sorted, so equal keys are neighbours
			keys = append(keys, key)
		}
	}
	return keys
}

func (s *Server) putKey(r *http.Request, key string, params url.Values) (any, error) {
	if key == "" {
		return nil, badRequest(missingKeyName)
	}
	if err := exclusive(params, "cas", "acquire", "release"); err != nil {
		return nil, err
	}
	flags, err := uintParam(params, "flags")
	if err != nil {
		return nil, err
	}
	cas, err := uintParam(params, "cas")
	if err != nil {
		return nil, err
	}
	if r.ContentLength > maxValueBytes {
		return nil, tooLarge(r.ContentLength, "kv_max_value_size")
	}
	value, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read value of key %q: %w", key, err)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	done := true
	e := entry{Key: key, Flags: flags, Value: bytesOrNil(value)}
	err = s.try(func(w *write) (err error) {
		switch {
		case params.Has("cas"):
			e.ModifyIndex = cas
			_, done = s.kv.cas(w, e)
		case params.Has("acquire"):
			e.Session = params.Get("acquire")
			if s.kv.lockDelayed(key) {
				done = false
				return nil
			}
			_, done, err = s.lock(w, e)
		case params.Has("release"):
			e.Session = params.Get("release")
			_, done, err = s.unlock(w, e)
		default:
			s.kv.set(w, e)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("raft apply failed: %w", err)
	}
	return done, nil
}

func (s *Server) deleteKey(key string, params url.Values) (any, error) {
	if err := exclusive(params, "recurse", "cas"); err != nil {
		return nil, err
	}
	if key == "" && !params.Has("recurse") {
		return nil, badRequest(missingKeyName)
	}
	cas, err := uintParam(params, "cas")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done := true
	s.apply(func(w *write) {
		switch {
		case params.Has("recurse"):
			s.kv.removeTree(w, key)
		case params.Has("cas"):
			done = s.kv.removeCAS(w, key, cas)
		default:
			s.kv.remove(w, key)
		}
	})
	return done, nil
}

// exclusive refuses a request that has more than one of some parameters.
func exclusive(params url.Values, names ...string) error {
	count := 0
	for _, name := range names {
		if params.Has(name) {
			count++
		}
	}
	if count > 1 {
		return badRequest("Conflicting flags: %s", params.Encode())
	}
	return nil
}

// uintParam reads a number, 0 when the parameter is absent. A bad one is a 500, in Consul too.
func uintParam(params url.Values, name string) (uint64, error) {
	if !params.Has(name) {
		return 0, nil
	}
	return strconv.ParseUint(params.Get(name), 10, 64)
}

func tooLarge(size int64, setting string) error {
	return &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf(
		"Request body(%d bytes) too large, max size: %d bytes. See %s#%s.", size, maxValueBytes, configDocs, setting)}
}

// bytesOrNil makes no difference between an empty value and none, as Consul does once a value is stored.
func bytesOrNil(value []byte) []byte {
	if len(value) == 0 {
		return nil
	}
	return value
}
