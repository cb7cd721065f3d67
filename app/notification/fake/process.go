package fake

import (
	"context"

	"allregions/app/actor"
)

// Process is a Dapr that reaches the methods of its actor at once. What follows the
// replies waits for End.
type Process struct {
	Methods map[string]actor.Method

	after []func()
}

// Invoke is for actor.Invoker.
func (p *Process) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	turn, err := p.Methods[method](ctx, id, body)
	if err == nil && turn.After != nil {
		p.after = append(p.after, func() {
			turn.After(context.WithoutCancel(ctx))
			if turn.Settle != nil {
				turn.Settle(context.WithoutCancel(ctx))
			}
		})
	}
	return turn.Reply, err
}

// End does what follows the turns.
func (p *Process) End() {
	for _, do := range p.after {
		do()
	}
	p.after = nil
}
