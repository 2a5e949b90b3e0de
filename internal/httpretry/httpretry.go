// Package httpretry makes HTTP clients that repeat what went wrong underway. It
// is for calls that may be repeated, and for those alone.
package httpretry

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// A call is sent at most five times within about 2 s, well below any TTL: who
// calls hears of trouble soon, and decides for how long it tries again.
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
	rc.Backoff = backoff
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

// backoff doubles the pause before each try. Up to half of it is added, so that
// clients that failed together come back apart.
func backoff(least, most time.Duration, try int, _ *http.Response) time.Duration {
	pause := retryablehttp.DefaultBackoff(least, most, try, nil)
	return pause + rand.N(pause/2)
}

// passOn gives either the answer or the error: an HTTP client must not get both.
func passOn(resp *http.Response, err error, _ int) (*http.Response, error) {
	if err != nil && resp != nil {
		_ = resp.Body.Close() // nobody reads it
		return nil, err
	}
	return resp, err
}
