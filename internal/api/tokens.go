package api

import (
	"net/http"

	"drover/internal/control"
	"drover/internal/work"
)

func (h *handler) tokens(r *http.Request) (any, error) {
	tokens, err := h.Service.Tokens(r.Context())
	if tokens == nil {
		tokens = []work.Token{}
	}
	return tokens, err
}

func (h *handler) createToken(r *http.Request) (any, error) {
	var wanted control.TokenRequest
	if err := decodeBody(r, &wanted); err != nil {
		return nil, err
	}
	return h.Service.CreateToken(r.Context(), wanted)
}

func (h *handler) revokeToken(r *http.Request) (any, error) {
	return h.Service.RevokeToken(r.Context(), r.PathValue("id"))
}
