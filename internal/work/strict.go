package work

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DecodeStrict reads one JSON value. An unknown field is an error, because a
// misspelt limit that is silently ignored is worse than a refusal.
// It returns ErrInvalid.
func DecodeStrict(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, end := decoder.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("text follows")
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimPrefix(err.Error(), "json: "), ErrInvalid)
	}
	return nil
}
