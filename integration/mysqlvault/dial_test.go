package mysqlvault_test

import (
	"context"
	"net"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// gated dials when the gate lets it.
func gated(g *kit.Gate) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := g.Pass(ctx); err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}
