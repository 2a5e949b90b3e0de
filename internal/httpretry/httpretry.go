// Package httpretry makes HTTP clients that repeat what went wrong underway. It
// is for calls that may be repeated, and for those alone.
package httpretry

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// A call is sent at most five times within about 5 s, well below any TTL.
const (
	retries = 4
	waitMin = 100 * time.Millisecond
	waitMax = 2 * time.Second
)

// Client returns a client over base that repeats calls which did not get
// through, or were answered with 429 or a 5xx status but for those in final.
// The last answer is passed on as it is.
func Client(base http.RoundTripper, final ...int) *http.Client {
	rc := retryablehttp.NewClient()
	rc.HTTPClient = &http.Client{Transport: base}
	rc.RetryMax, rc.RetryWaitMin, rc.RetryWaitMax = retries, waitMin, waitMax
	rc.Logger = nil
	rc.Backoff = retryablehttp.LinearJitterBackoff
	rc.ErrorHandler = passOn
	rc.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		for _, status := range final {
			if resp != nil && resp.StatusCode == status {
				return false, nil
			}
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	return rc.StandardClient()
}

// passOn gives either the answer or the error: an HTTP client must not get both.
func passOn(resp *http.Response, err error, _ int) (*http.Response, error) {
	if err != nil && resp != nil {
		_ = resp.Body.Close() // nobody reads it
		return nil, err
	}
	return resp, err
}
