package consuld

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// maxTxnOps is Consul's limit since 1.14.
const maxTxnOps = 128

// txnKVOp is one operation as a client sends it.
type txnKVOp struct {
	Verb    string
	Key     string
	Value   []byte
	Flags   uint64
	Index   uint64
	Session string
}

type txnOp struct {
	KV                   *txnKVOp
	Node, Service, Check json.RawMessage
}

type txnResult struct {
	KV *entry
}

type txnError struct {
	OpIndex int
	What    string
}

type txnAnswer struct {
	Results []txnResult
	Errors  []txnError
}

// txnReadAnswer is the answer to a transaction that writes nothing; Consul shows its query metadata there.
type txnReadAnswer struct {
	txnAnswer
	Index                 uint64
	LastContact           int
	KnownLeader           bool
	ConsistencyLevel      string
	NotModified           bool
	Backend               int
	ResultsFilteredByACLs bool
}

// errTxnFailed undoes a transaction whose errors are reported to the client.
var errTxnFailed = errors.New("transaction failed")

func (s *Server) serveTxn(w http.ResponseWriter, r *http.Request) (any, error) {
	ops, err := decodeTxn(w, r)
	if err != nil {
		return nil, err
	}
	answer := s.runTxn(ops)
	var body any = answer
	if !writes(ops) {
		setLeaderMeta(w.Header())
		body = txnReadAnswer{txnAnswer: answer, Index: 1, KnownLeader: true}
	}
	if len(answer.Errors) > 0 {
		writeJSON(w, r, http.StatusConflict, body)
		return nil, nil
	}
	return body, nil
}

func decodeTxn(w http.ResponseWriter, r *http.Request) ([]*txnKVOp, error) {
	if r.ContentLength > maxValueBytes {
		return nil, tooLarge(r.ContentLength, "txn_max_req_len")
	}
	var ops []txnOp
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxValueBytes)).Decode(&ops); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf(
				"Request body too large, max size: %d bytes. See %s#txn_max_req_len.", maxValueBytes, configDocs)}
		}
		return nil, badRequest("Failed to parse body: %v", err)
	}
	if len(ops) > maxTxnOps {
		return nil, &httpError{http.StatusRequestEntityTooLarge,
			fmt.Sprintf("Transaction contains too many operations (%d > %d)", len(ops), maxTxnOps)}
	}
	var kvOps []*txnKVOp
	for _, op := range ops {
		switch {
		case op.KV != nil:
			kvOps = append(kvOps, op.KV)
		case op.Node != nil || op.Service != nil || op.Check != nil:
			return nil, badRequest("the embedded Consul runs only KV operations in a transaction")
		} // an empty operation is skipped, in Consul too
	}
	return kvOps, nil
}

// makesKey tells whether an operation may make a key. Consul's own transactions do
// not look at names; here they do, so that no key is made which /v1/kv refuses then.
func makesKey(verb string) bool { return verb == "set" || verb == "cas" || verb == "lock" }

// writes tells whether any operation writes; a transaction of reads takes no index.
func writes(ops []*txnKVOp) bool {
	for _, op := range ops {
		switch op.Verb {
		case "set", "delete", "delete-cas", "delete-tree", "cas", "lock", "unlock":
			return true
		}
	}
	return false
}

// runTxn runs all operations, or none. When some fail it reports every one that does.
func (s *Server) runTxn(ops []*txnKVOp) txnAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if failed := s.checkTxn(ops); failed != nil {
		return txnAnswer{Errors: failed}
	}
	answer := txnAnswer{Results: []txnResult{}}
	run := func(w *write) error {
		for i, op := range ops {
			entries, err := s.runOp(w, op)
			if err != nil {
				answer.Errors = append(answer.Errors, txnError{i, err.Error()})
			}
			for _, e := range entries {
				answer.Results = append(answer.Results, txnResult{e})
			}
		}
		if len(answer.Errors) > 0 {
			answer.Results = nil
			return errTxnFailed
		}
		return nil
	}
	if writes(ops) {
		_ = s.try(run) // the answer has the errors
	} else {
		_ = run(&write{}) // as above; nothing is written
	}
	return answer
}

// checkTxn finds the faults that Consul looks for before it runs anything.
func (s *Server) checkTxn(ops []*txnKVOp) []txnError {
	var failed []txnError
	for i, op := range ops {
		switch {
		case op.Key == "" && op.Verb != "delete-tree":
			failed = append(failed, txnError{i, "Must provide key"})
		case makesKey(op.Verb) && checkKey(op.Key) != nil:
			failed = append(failed, txnError{i, checkKey(op.Key).Error()})
		case op.Verb == "lock" && s.kv.lockDelayed(op.Key):
			failed = append(failed, txnError{i, fmt.Sprintf("failed to lock key %q due to lock delay", op.Key)})
		}
	}
	return failed
}

// runOp runs one operation and returns what it has to show.
func (s *Server) runOp(w *write, op *txnKVOp) ([]*entry, error) {
	asked := entry{
		Key: op.Key, Value: bytesOrNil(op.Value), Flags: op.Flags, Session: op.Session, ModifyIndex: op.Index,
	}
	switch op.Verb {
	case "set":
		return shown(s.kv.set(w, asked), true, nil, "")
	case "cas":
		e, ok := s.kv.cas(w, asked)
		return shown(e, ok, nil, fmt.Sprintf("failed to set key %q, index is stale", op.Key))
	case "lock":
		e, ok, err := s.lock(w, asked)
		return shown(e, ok, err, fmt.Sprintf("failed to lock key %q, lock is already held", op.Key))
	case "unlock":
		e, ok, err := s.unlock(w, asked)
		return shown(e, ok, err, fmt.Sprintf(
			"failed to unlock key %q, lock isn't held, or is held by another session", op.Key))
	case "delete":
		s.kv.remove(w, op.Key)
		return nil, nil
	case "delete-tree":
		s.kv.removeTree(w, op.Key)
		return nil, nil
	case "delete-cas":
		if !s.kv.removeCAS(w, op.Key, op.Index) {
			return nil, fmt.Errorf("failed to delete key %q, index is stale", op.Key)
		}
		return nil, nil
	}
	return s.runReadOp(op, asked)
}

// shown is the outcome of a write: the entry without its value, or why not.
func shown(e *entry, ok bool, err error, refusal string) ([]*entry, error) {
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, errors.New(refusal)
	}
	return []*entry{e.withoutValue()}, nil
}

func (s *Server) runReadOp(op *txnKVOp, asked entry) ([]*entry, error) {
	current := s.kv.entries[op.Key]
	switch op.Verb {
	case "get":
		if current == nil {
			return nil, fmt.Errorf("key %q doesn't exist", op.Key)
		}
		return []*entry{current}, nil
	case "get-or-empty":
		if current == nil {
			current = asked.withoutValue()
		}
		return []*entry{current}, nil
	case "get-tree":
		entries, _ := s.kv.list(op.Key)
		return entries, nil
	case "check-not-exists":
		if current != nil {
			return nil, fmt.Errorf("key %q exists", op.Key)
		}
		return nil, nil
	case "check-session":
		switch {
		case current == nil:
			return nil, fmt.Errorf("failed to check session, key %q doesn't exist", op.Key)
		case current.Session != op.Session:
			return nil, fmt.Errorf("failed session check for key %q, current session %q != %q", op.Key, current.Session, op.Session)
		}
		return []*entry{current.withoutValue()}, nil
	case "check-index":
		switch {
		case current == nil:
			return nil, fmt.Errorf("failed to check index, key %q doesn't exist", op.Key)
		case current.ModifyIndex != op.Index:
			return nil, fmt.Errorf("failed index check for key %q, current modify index %d != %d", op.Key, current.ModifyIndex, op.Index)
		}
		return []*entry{current.withoutValue()}, nil
	}
	return nil, fmt.Errorf("unknown KV verb %q", op.Verb)
}
