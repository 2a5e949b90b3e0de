package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// submissions takes one submission, an array of them, or a stream of lines.
func (h *handler) submissions() http.Handler {
	few := h.call(http.StatusCreated, h.submit)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == ndjson {
			h.submitStream(w, r)
			return
		}
		few.ServeHTTP(w, r)
	})
}

func (h *handler) submit(r *http.Request) (any, error) {
	key, err := orderKey(r)
	if err != nil {
		return nil, err
	}
	dry, err := flag(r, "dry_run")
	if err != nil {
		return nil, err
	}
	items, err := decodeSubmissions(r.Body, key)
	if err != nil {
		return nil, err
	}
	if dry {
		return h.Service.Check(r.Context(), items)
	}
	return h.Service.Submit(r.Context(), items)
}

// decodeSubmissions reads one submission or an array of them. An item without
// an id is named by the request's key, and gets an id where there is none.
func decodeSubmissions(body io.Reader, key string) ([]control.Submission, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read items: %v: %w", err, work.ErrInvalid)
	}
	data = bytes.TrimSpace(data)
	if !bytes.HasPrefix(data, []byte("[")) {
		data = slices.Concat([]byte("["), data, []byte("]"))
	}
	var items []control.Submission
	if err := work.DecodeStrict(data, &items); err != nil {
		return nil, fmt.Errorf("read items: %w", err)
	}
	if len(items) == 0 || len(items) > MaxSubmissions {
		return nil, fmt.Errorf("%d items, use 1 to %d: %w", len(items), MaxSubmissions, work.ErrInvalid)
	}
	now := time.Now()
	for i := range items {
		switch item := &items[i]; {
		case item.ID != "" || item.Key != "":
		case key != "":
			item.Key = fmt.Sprintf("%s/%d", key, i)
		default:
			item.ID = work.NewID(now)
		}
	}
	return items, nil
}

func (h *handler) items(r *http.Request) (any, error) {
	values := r.URL.Query()
	filter, err := filterOf(values)
	if err != nil {
		return nil, err
	}
	q := control.Query{Filter: filter, Sort: values.Get("sort"), Cursor: values.Get("cursor")}
	switch order := values.Get("order"); order {
	case "", "desc":
	case "asc":
		q.Asc = true
	default:
		return nil, fmt.Errorf("order %q: use asc or desc: %w", order, work.ErrInvalid)
	}
	if q.Limit, err = number(r, "limit"); err != nil {
		return nil, err
	}
	page, err := h.Service.Items(r.Context(), q)
	if page.Items == nil {
		page.Items = []work.Item{}
	}
	return page, err
}

// filterOf reads a filter from a query; encodeFilter writes one.
func filterOf(values url.Values) (control.Filter, error) {
	f := control.Filter{Queue: values.Get("queue"), Repository: values.Get("repository"), IDs: values["id"]}
	for _, text := range values["state"] {
		state := work.State(text)
		if !slices.Contains(work.States(), state) {
			return f, fmt.Errorf("state %q: use one of %v: %w", state, work.States(), work.ErrInvalid)
		}
		f.States = append(f.States, state)
	}
	for _, text := range values["reason"] {
		reason := work.Reason(text)
		if !slices.Contains(work.Reasons(), reason) {
			return f, fmt.Errorf("reason %q: use one of %v: %w", reason, work.Reasons(), work.ErrInvalid)
		}
		f.Reasons = append(f.Reasons, reason)
	}
	for _, label := range values["label"] {
		key, value, _ := strings.Cut(label, "=")
		if f.Labels == nil {
			f.Labels = map[string]string{}
		}
		f.Labels[key] = value
	}
	for name, to := range map[string]*time.Duration{"older_than": &f.OlderThan, "newer_than": &f.NewerThan} {
		text := values.Get(name)
		if text == "" {
			continue
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return f, fmt.Errorf("%s %q: give a duration such as 36h: %w", name, text, work.ErrInvalid)
		}
		*to = d
	}
	return f, nil
}

func encodeFilter(f control.Filter) url.Values {
	values := url.Values{}
	add := func(name, value string) {
		if value != "" {
			values.Add(name, value)
		}
	}
	for _, state := range f.States {
		add("state", string(state))
	}
	for _, reason := range f.Reasons {
		add("reason", string(reason))
	}
	for key, value := range f.Labels {
		add("label", key+"="+value)
	}
	for _, id := range f.IDs {
		add("id", id)
	}
	add("queue", f.Queue)
	add("repository", f.Repository)
	if f.OlderThan > 0 {
		add("older_than", f.OlderThan.String())
	}
	if f.NewerThan > 0 {
		add("newer_than", f.NewerThan.String())
	}
	return values
}

// number reads a query parameter, 0 if it is absent.
func number(r *http.Request, name string) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s %q: give a number: %w", name, text, work.ErrInvalid)
	}
	return n, nil
}

// flag reads a query parameter that is true or false, false if it is absent.
func flag(r *http.Request, name string) (bool, error) {
	text := cmp.Or(r.URL.Query().Get(name), "false")
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s %q: give true or false: %w", name, text, work.ErrInvalid)
	}
	return b, nil
}

func (h *handler) item(r *http.Request) (any, error) {
	item, progress, err := h.Service.Item(r.Context(), r.PathValue("id"))
	return control.Detail{Item: item, Progress: progress}, err
}

func (h *handler) logs(r *http.Request) (any, error) {
	attempt, err := number(r, "attempt")
	if err != nil {
		return nil, err
	}
	return h.Service.Logs(r.Context(), r.PathValue("id"), attempt)
}

// order answers a call that orders something about an item.
func (h *handler) order(verb control.Verb) endpoint {
	return func(r *http.Request) (any, error) {
		var order control.Order
		if err := decodeBody(r, &order); err != nil {
			return nil, err
		}
		return h.give(r, verb, order)
	}
}

func (h *handler) retryPR(r *http.Request) (any, error) {
	return h.Service.RetryPR(r.Context(), r.PathValue("id"))
}

func (h *handler) edit(r *http.Request) (any, error) {
	patch, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read request: %v: %w", err, work.ErrInvalid)
	}
	if !json.Valid(patch) {
		return nil, fmt.Errorf("read request: give a JSON object of the fields to change: %w", work.ErrInvalid)
	}
	return h.give(r, control.Edit, control.Order{Patch: patch, By: r.URL.Query().Get("by")})
}

func (h *handler) remove(r *http.Request) (any, error) {
	force, err := flag(r, "force")
	if err != nil {
		return nil, err
	}
	return h.give(r, control.Remove, control.Order{Force: force, By: r.URL.Query().Get("by")})
}

// give passes an order on, with what the request's header says of it.
func (h *handler) give(r *http.Request, verb control.Verb, order control.Order) (any, error) {
	key, err := orderKey(r)
	if err != nil {
		return nil, err
	}
	order.Verb, order.Key, order.Match = verb, key, r.Header.Get("If-Match")
	order.By = cmp.Or(order.By, caller(r))
	const maxBy = 100
	if len(order.By) > maxBy {
		return nil, fmt.Errorf("by: at most %d bytes: %w", maxBy, work.ErrInvalid)
	}
	return h.Service.Order(r.Context(), r.PathValue("id"), order)
}

// maxKey bounds an Idempotency-Key, in bytes.
const maxKey = 200

// orderKey returns the request's Idempotency-Key, empty if it has none.
func orderKey(r *http.Request) (string, error) {
	key := r.Header.Get("Idempotency-Key")
	if len(key) > maxKey {
		return "", fmt.Errorf("Idempotency-Key of %d bytes, at most %d: %w", len(key), maxKey, work.ErrInvalid)
	}
	return key, nil
}

// restore takes items of a backup, one a line.
func (h *handler) restore(r *http.Request) (any, error) {
	dry, err := flag(r, "dry_run")
	if err != nil {
		return nil, err
	}
	items, err := readLines[work.Item](r, "item")
	if err != nil {
		return nil, err
	}
	return h.Service.Import(r.Context(), items, dry)
}

// restoreLogs takes kept output of a backup, an attempt a line.
func (h *handler) restoreLogs(r *http.Request) (any, error) {
	kept, err := readLines[work.KeptLogs](r, "kept output")
	if err != nil {
		return nil, err
	}
	return h.Service.ImportLogs(r.Context(), kept)
}

// readLines reads a body of JSON values; what names one in an error.
func readLines[T any](r *http.Request, what string) (values []T, err error) {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	for {
		var value T
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s %d: %s: %w", what, len(values)+1, strings.TrimPrefix(err.Error(), "json: "), work.ErrInvalid)
		}
		values = append(values, value)
	}
}

func (h *handler) overview(r *http.Request) (any, error) { return h.Service.Overview(r.Context()) }
