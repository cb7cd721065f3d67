package stack

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// AnswerError is an answer that is not a 200.
type AnswerError struct {
	Status int
	Body   string
}

func (e *AnswerError) Error() string { return fmt.Sprintf("%d %s", e.Status, e.Body) }

// Get returns the body of a 200. Any other answer is an AnswerError.
func Get(ctx context.Context, url, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &AnswerError{resp.StatusCode, string(body)}
	}
	return body, nil
}
