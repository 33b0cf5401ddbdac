package auth

import (
	"context"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// gatewayMark is a header that only requests of the JSON gateway have. The
// certificate that they come with is not their client's.
const gatewayMark = "grpcgateway-accept"

// caller finds out who a request comes from.
func (s *Service) caller(ctx context.Context, rules *Rules) (*Caller, error) {
	token, ok := tokenOf(ctx)
	if !ok {
		name := ""
		if s.cfg.ClientCertAuth {
			name = commonName(ctx)
		}
		return rules.Named(name), nil
	}
	name, revision, ok := s.tokens.user(rules.state, token)
	if !ok {
		s.log.Debug("invalid auth token", zap.String("token-fingerprint", fingerprint(token)))
		return nil, rpctypes.ErrGRPCInvalidAuthToken
	}
	return &Caller{rules: rules, name: name, revision: revision}, nil
}

// tokenOf returns the token of a request: etcd's clients send it as "token", curl
// at the gateway as "authorization".
func tokenOf(ctx context.Context) (string, bool) {
	for _, key := range []string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
			return strings.TrimPrefix(v[0], "Bearer "), true
		}
	}
	return "", false
}

// commonName returns that of the verified certificate of a client; empty if there
// is none.
func commonName(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(metadata.ValueFromIncomingContext(ctx, gatewayMark)) > 0 {
		return ""
	}
	for _, chain := range info.State.VerifiedChains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName
		}
	}
	return ""
}

// CallerName tells who a request comes from under rules, without asking whether they
// are the present ones. It is empty for one without user.
func (s *Service) CallerName(ctx context.Context, rules *Rules) (string, error) {
	c, err := s.caller(ctx, rules)
	if err != nil {
		return "", err
	}
	return c.name, nil
}

// KeysOf tells the keys of a lease, for the checks of Caller.KV.
func (s *Service) KeysOf(ctx context.Context) func(lease int64) ([][]byte, error) {
	f := s.keys.Load()
	if f == nil {
		return nil
	}
	return func(lease int64) ([][]byte, error) { return (*f)(Exempt(ctx), lease) }
}
