package nomadd

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

var variablePath = regexp.MustCompile(`^[a-zA-Z0-9-_~/]{1,128}$`)

func (s *Server) listVariables(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		list := sorted(s.state.variables,
			func(v *api.Variable) bool { return inNamespace(r, v.Namespace) && hasPrefix(r, v.Path) },
			func(a, b *api.Variable) int { return strings.Compare(a.Path, b.Path) })
		out := make([]*api.VariableMetadata, 0, len(list))
		for _, v := range list {
			out = append(out, v.Metadata())
		}
		return out, s.state.tables[tableVariables], nil
	})
}

func (s *Server) readVariable(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		v := s.state.variables[key{namespaceOf(r), r.PathValue("path")}]
		if v == nil {
			return nil, s.state.tables[tableVariables], coded(http.StatusNotFound, "variable not found")
		}
		return v, v.ModifyIndex, nil
	})
}

// putVariable serves PUT /v1/var/<path>, with cas=<index> for check-and-set.
func (s *Server) putVariable(w http.ResponseWriter, r *http.Request) (any, error) {
	var v api.Variable
	if err := decode(r, &v); err != nil {
		return nil, err
	}
	if len(v.Items) == 0 {
		return nil, coded(http.StatusBadRequest, "variable missing required Items object")
	}
	v.Path, v.Namespace = r.PathValue("path"), namespaceOf(r)
	if !variablePath.MatchString(v.Path) {
		return nil, coded(http.StatusBadRequest, `invalid path "`+v.Path+`"`)
	}
	conflict, index, err := s.changeVariable(r, key{v.Namespace, v.Path}, func(t *tx, known *api.Variable) {
		v.CreateIndex, v.ModifyIndex = t.index, t.index
		v.CreateTime, v.ModifyTime = time.Now().UnixNano(), time.Now().UnixNano()
		if known != nil {
			v.CreateIndex, v.CreateTime = known.CreateIndex, known.CreateTime
		}
		t.variables[key{v.Namespace, v.Path}] = &v
		t.emit(topicVariable, v.Path, v.Namespace, nil, map[string]any{"Metadata": v.Metadata(), "Deleted": false})
	})
	if err != nil {
		return nil, err
	}
	writeMeta(w, index)
	if conflict != nil {
		w.WriteHeader(http.StatusConflict)
		return conflict, nil
	}
	return v, nil
}

func (s *Server) deleteVariable(w http.ResponseWriter, r *http.Request) (any, error) {
	k := key{namespaceOf(r), r.PathValue("path")}
	conflict, index, err := s.changeVariable(r, k, func(t *tx, known *api.Variable) {
		if known == nil {
			return
		}
		delete(t.variables, k)
		t.emit(topicVariable, k.id, k.namespace, nil, map[string]any{"Metadata": known.Metadata(), "Deleted": true})
	})
	if err != nil {
		return nil, err
	}
	writeMeta(w, index)
	if conflict != nil {
		w.WriteHeader(http.StatusConflict)
		return conflict, nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil, nil
}

// changeVariable runs change unless the request's cas index isn't the
// variable's, which is then returned as the conflict.
func (s *Server) changeVariable(r *http.Request, k key, change func(*tx, *api.Variable)) (*api.Variable, uint64, error) {
	cas, isCAS := uint64(0), r.URL.Query().Has("cas")
	if isCAS {
		var err error
		if cas, err = strconv.ParseUint(r.URL.Query().Get("cas"), 10, 64); err != nil {
			return nil, 0, coded(http.StatusBadRequest, "can not parse cas: "+err.Error())
		}
	}
	var conflict *api.Variable
	index, err := s.state.write(eventVariable, func(t *tx) error {
		known := t.variables[k]
		if isCAS && cas != modifyIndex(known) {
			conflict = known
			if conflict == nil {
				conflict = &api.Variable{Namespace: k.namespace, Path: k.id}
			}
			return nil
		}
		change(t, known)
		t.touch(tableVariables)
		return nil
	})
	return conflict, index, err
}

func modifyIndex(v *api.Variable) uint64 {
	if v == nil {
		return 0
	}
	return v.ModifyIndex
}
