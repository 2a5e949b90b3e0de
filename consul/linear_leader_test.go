package consul_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"drover/consul"
	"drover/internal/wait"
	"drover/internal/work"
)

// registerID is the item that all would-be leaders write.
var registerID = work.NewID(time.Unix(1, 0))

// registerOp is the begin of a term, a write of a value in it, or a read that found it.
type registerOp struct {
	kind    int
	term    string
	value   string
	unknown bool // whether it took effect
}

const (
	opLead = iota
	opWrite
	opRead
)

// register is a value, and who may write it.
type register struct{ term, value string }

// registerHistory is what was written and read.
type registerHistory struct {
	mu      sync.Mutex
	ops     []porcupine.Operation
	terms   int
	unknown int
}

func (h *registerHistory) add(client int, op registerOp, call, ret int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Call: call, Output: op, Return: ret})
	switch {
	case op.kind == opLead:
		h.terms++
	case op.unknown:
		h.unknown++
	}
}

// operations are those that matter: a write of which nobody knows whether it took effect did so before the end of the
// first read that found it, and is as good as never made where none did.
func (h *registerHistory) operations() (ops []porcupine.Operation) {
	found := map[string]int64{}
	for _, o := range h.ops {
		if op := o.Input.(registerOp); op.kind == opRead {
			if ret, ok := found[op.value]; !ok || o.Return < ret {
				found[op.value] = o.Return
			}
		}
	}
	for _, o := range h.ops {
		if o.Return == never {
			ret, ok := found[o.Input.(registerOp).value]
			if !ok {
				continue
			}
			o.Return = ret
		}
		ops = append(ops, o)
	}
	return ops
}

func (h *registerHistory) tally(t *tally) {
	t.leaderOps, t.terms, t.unknown = len(h.ops), h.terms, t.unknown+h.unknown
}

// registerModel is a register that the latest term alone may write. What a fenced leader wrote is in no history: a read
// that finds it is a violation.
func registerModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, _ any) (bool, any) {
			is, op := state.(register), input.(registerOp)
			switch {
			case op.kind == opLead:
				is.term = op.term
			case op.kind == opRead:
				return op.value == is.value, is
			case op.term == is.term:
				is.value = op.value
			default:
				return op.unknown, is
			}
			return true, is
		},
		DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
	}
}

// candidate tries to lead, writes while it does, and steps down, or is deposed, after a while.
func (r *run) candidate(n int) {
	random := rand.New(rand.NewPCG(uint64(n), uint64(r.n)))
	for terms := 0; !r.over(); terms++ {
		client, name := r.open((n+terms)%len(r.cluster.Servers)), fmt.Sprintf("%d.%d", n, terms)
		ctx, cancel := context.WithDeadline(r.t.Context(), r.ends)
		call := r.now()
		term, err := client.Lead(ctx, consul.Candidate{Leader: consul.Leader{ID: r.prefix[5:] + "-" + name, Address: "x"}, TTL: leaderTTL})
		if err == nil {
			r.writes.add(n, registerOp{kind: opLead, term: name}, call, r.now())
			r.write(client, term, n, name, random)
			term.Resign()
		}
		cancel()
	}
}

// write writes until the term is over, or enough is written. A leader that others believe dead goes on.
func (r *run) write(client *consul.Client, term *consul.Term, n int, name string, random *rand.Rand) {
	for i := range 10 + random.IntN(40) {
		if r.over() {
			return
		}
		item := newItem(fmt.Sprint(name, ".", i))
		item.ID = registerID
		call, op := r.now(), registerOp{kind: opWrite, term: name, value: item.Spec.Task}
		err := term.Commit(r.t.Context(), work.Change{PutItem: item})
		switch {
		case err == nil:
			r.writes.add(n, op, call, r.now())
		case errors.Is(err, work.ErrFenced) && !errors.Is(err, work.ErrUnknownOutcome):
			return
		default:
			op.unknown = true
			r.writes.add(n, op, call, never)
			return
		}
		if random.IntN(20) == 0 {
			ctx, cancel := context.WithTimeout(r.t.Context(), opTimeout)
			_ = client.DestroyLeaderSession(ctx) // whoever leads: it may find nobody, or no server
			cancel()
		}
		_ = wait.For(r.t.Context(), time.Duration(random.IntN(20))*time.Millisecond)
	}
}

// reader reads the register, at a server that it changes now and then.
func (r *run) reader(n int) {
	for server := n; !r.over(); server++ {
		client := r.open(server % len(r.cluster.Servers))
		for range 30 {
			if r.over() {
				return
			}
			ctx, cancel := context.WithTimeout(r.t.Context(), opTimeout)
			call := r.now()
			items, err := client.Items(ctx)
			cancel()
			if err != nil {
				break
			}
			value := ""
			if len(items) > 0 {
				value = items[0].Spec.Task
			}
			r.writes.add(candidates+n, registerOp{kind: opRead, value: value}, call, r.now())
			_ = wait.For(r.t.Context(), 10*time.Millisecond)
		}
	}
}
