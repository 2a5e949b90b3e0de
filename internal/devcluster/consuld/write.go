package consuld

import "slices"

// write is one change of the state in the making: all of it happens, or none.
type write struct {
	change
	index uint64
	undo  []func()
}

// try makes a write under the next index. When f fails, what it did to the KV is undone and nobody is told; the index
// is spent all the same, as a raft entry is.
func (s *Server) try(f func(*write) error) error {
	s.index++
	w := &write{index: s.index}
	if err := f(w); err != nil {
		for _, undo := range slices.Backward(w.undo) {
			undo()
		}
		return err
	}
	s.notify(&w.change)
	return nil
}

// apply makes a write that cannot fail.
func (s *Server) apply(f func(*write)) {
	_ = s.try(func(w *write) error { // never an error: f has none
		f(w)
		return nil
	})
}
