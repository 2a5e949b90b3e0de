package orchestrator

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Items returns a page of the items that a query selects.
// It returns work.ErrInvalid for a sort or a cursor that is none.
func (o *Orchestrator) Items(ctx context.Context, q control.Query) (control.Page, error) {
	if err := o.loaded(ctx); err != nil {
		return control.Page{}, err
	}
	order, err := orderOf(q)
	if err != nil {
		return control.Page{}, err
	}
	limit := cmp.Or(q.Limit, control.DefaultPage)
	if limit < 0 || limit > control.MaxPage {
		return control.Page{}, fmt.Errorf("limit %d: use 1 to %d: %w", q.Limit, control.MaxPage, work.ErrInvalid)
	}
	found := &page{order: order, limit: limit}
	total := 0
	if q.Empty() && order.Sort == control.SortCreated {
		total = o.walk(order, found)
	} else {
		now := time.Now()
		o.each(q.Filter, func(item *work.Item) {
			if selects(q.Filter, item, now) {
				total++
				found.offer(item)
			}
		})
	}
	slices.SortFunc(found.items, order.compare)
	out := control.Page{Items: make([]work.Item, len(found.items)), Total: total}
	for i, item := range found.items {
		out.Items[i] = o.told(item)
	}
	if found.more {
		out.Next = order.cursor(found.items[len(found.items)-1])
	}
	return out, nil
}

// walk offers the items in the order of their ids, from the cursor on, until the
// page is full, and returns how many there are.
func (o *Orchestrator) walk(order listOrder, to *page) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, step := len(o.sorted)-1, -1
	if order.Asc {
		at, step = 0, 1
	}
	if order.ID != "" {
		place, found := o.rank(order.ID)
		switch at = place; {
		case !order.Asc:
			at-- // before it, whether it is still there or not
		case found:
			at++
		}
	}
	for ; at >= 0 && at < len(o.sorted) && !to.more; at += step {
		to.offer(o.sorted[at].entry.item.Load())
	}
	return len(o.sorted)
}

// each calls f with the items in the order of their ids, or with those that a
// filter names.
func (o *Orchestrator) each(f control.Filter, visit func(*work.Item)) {
	o.mu.Lock()
	var entries []known
	if len(f.IDs) == 0 {
		entries = slices.Clone(o.sorted)
	}
	for _, id := range f.IDs {
		if e := o.entries[id]; e != nil {
			entries = append(entries, known{id, e})
		}
	}
	o.mu.Unlock()
	for _, k := range entries {
		visit(k.entry.item.Load())
	}
}

// selects reports whether a filter selects an item.
func selects(f control.Filter, item *work.Item, now time.Time) bool {
	age := now.Sub(item.CreatedAt)
	switch {
	case len(f.States) > 0 && !slices.Contains(f.States, item.State),
		f.Queue != "" && item.Spec.Queue != f.Queue,
		f.Repository != "" && !strings.Contains(item.Spec.Repository, f.Repository),
		len(f.Reasons) > 0 && !slices.Contains(f.Reasons, item.Reason),
		f.OlderThan > 0 && age < f.OlderThan,
		f.NewerThan > 0 && age >= f.NewerThan:
		return false
	}
	for key, value := range f.Labels {
		if got, has := item.Spec.Labels[key]; !has || value != "" && got != value {
			return false
		}
	}
	return true
}

// position is where an item stands in a list, and what a cursor holds.
type position struct {
	Sort string `json:"s"`
	Asc  bool   `json:"a,omitempty"`
	Key  string `json:"k"`
	ID   string `json:"i"`
}

// listOrder compares items. Items of the same key are in the order of their ids.
type listOrder struct {
	position // after which the list goes on; no ID is the start
	key      func(*work.Item) string
}

// sortKeys make a text of what items are sorted by.
var sortKeys = map[string]func(*work.Item) string{
	control.SortCreated:    func(*work.Item) string { return "" }, // ids tell the time
	control.SortUpdated:    func(i *work.Item) string { return i.UpdatedAt.UTC().Format("2006-01-02T15:04:05.000000000") },
	control.SortPriority:   func(i *work.Item) string { return fmt.Sprintf("%03d", *i.Spec.Priority) },
	control.SortState:      func(i *work.Item) string { return string(i.State) },
	control.SortQueue:      func(i *work.Item) string { return i.Spec.Queue },
	control.SortRepository: func(i *work.Item) string { return i.Spec.Repository },
	control.SortAttempts:   func(i *work.Item) string { return fmt.Sprintf("%05d", i.AttemptCount()) },
}

func orderOf(q control.Query) (listOrder, error) {
	order := listOrder{position: position{Sort: cmp.Or(q.Sort, control.SortCreated), Asc: q.Asc}}
	if order.key = sortKeys[order.Sort]; order.key == nil {
		return order, fmt.Errorf("sort %q: use one of %s: %w", q.Sort, strings.Join(slices.Sorted(maps.Keys(sortKeys)), ", "), work.ErrInvalid)
	}
	if q.Cursor == "" {
		return order, nil
	}
	var p position
	data, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil || p.Sort != order.Sort || p.Asc != order.Asc {
		return order, fmt.Errorf("cursor %q is not one of this list: %w", q.Cursor, work.ErrInvalid)
	}
	order.position = p
	return order, nil
}

func (l listOrder) cursor(item *work.Item) string {
	data, err := json.Marshal(position{Sort: l.Sort, Asc: l.Asc, Key: l.key(item), ID: item.ID})
	if err != nil {
		return "" // it holds texts alone
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// compare is below zero when a comes before b.
func (l listOrder) compare(a, b *work.Item) int {
	return l.direct(cmp.Or(strings.Compare(l.key(a), l.key(b)), strings.Compare(a.ID, b.ID)))
}

func (l listOrder) direct(c int) int {
	if l.Asc {
		return c
	}
	return -c
}

// follows reports whether an item comes after the position.
func (l listOrder) follows(item *work.Item) bool {
	return l.ID == "" || l.direct(cmp.Or(strings.Compare(l.key(item), l.Key), strings.Compare(item.ID, l.ID))) > 0
}

// page keeps the first items that it is offered, the last of them on top, so
// that a page of many items needs no sorting of all.
type page struct {
	order listOrder
	limit int
	items []*work.Item
	more  bool // there are some after it
}

func (p *page) offer(item *work.Item) {
	switch {
	case !p.order.follows(item):
	case len(p.items) < p.limit:
		heap.Push(p, item)
	case p.order.compare(item, p.items[0]) < 0:
		p.more = true
		p.items[0] = item
		heap.Fix(p, 0)
	default:
		p.more = true
	}
}

func (p *page) Len() int           { return len(p.items) }
func (p *page) Less(i, j int) bool { return p.order.compare(p.items[i], p.items[j]) > 0 }
func (p *page) Swap(i, j int)      { p.items[i], p.items[j] = p.items[j], p.items[i] }
func (p *page) Push(x any)         { p.items = append(p.items, x.(*work.Item)) }

func (p *page) Pop() any {
	last := p.items[len(p.items)-1]
	p.items = p.items[:len(p.items)-1]
	return last
}
