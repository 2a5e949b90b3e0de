package queue

import "container/heap"

// ranked is what stands in a ranking, at a spot that it remembers.
type ranked interface {
	comparable
	spot() *int
}

// ranking gives the first of its members in constant time, and takes and loses
// one in logarithmic time.
type ranking[T ranked] struct {
	members []T
	less    func(a, b T) bool
}

func (r *ranking[T]) len() int { return len(r.members) }

// first returns the first member. There must be one.
func (r *ranking[T]) first() T { return r.members[0] }

func (r *ranking[T]) has(v T) bool {
	at := *v.spot()
	return at < len(r.members) && r.members[at] == v
}

func (r *ranking[T]) put(v T) { heap.Push((*ordered[T])(r), v) }

// remove takes a member out, if it is one.
func (r *ranking[T]) remove(v T) {
	if r.has(v) {
		heap.Remove((*ordered[T])(r), *v.spot())
	}
}

// fix finds the place of a member whose rank has changed.
func (r *ranking[T]) fix(v T) { heap.Fix((*ordered[T])(r), *v.spot()) }

// ordered is a ranking as container/heap wants it.
type ordered[T ranked] ranking[T]

func (o *ordered[T]) Len() int           { return len(o.members) }
func (o *ordered[T]) Less(i, j int) bool { return o.less(o.members[i], o.members[j]) }

func (o *ordered[T]) Swap(i, j int) {
	o.members[i], o.members[j] = o.members[j], o.members[i]
	*o.members[i].spot(), *o.members[j].spot() = i, j
}

func (o *ordered[T]) Push(x any) {
	v := x.(T)
	*v.spot() = len(o.members)
	o.members = append(o.members, v)
}

func (o *ordered[T]) Pop() any {
	last := len(o.members) - 1
	v := o.members[last]
	var none T
	o.members[last] = none
	o.members = o.members[:last]
	return v
}
