package server

import (
	"time"

	"github.com/kvd-io/kvd/auth"
)

// openAuth makes what checks the permissions of clients.
func (m *Member) openAuth() error {
	var err error
	m.auth, err = auth.NewService(auth.Config{
		Placement: m.placement, Token: m.cfg.AuthToken, TokenTTL: time.Duration(m.cfg.AuthTokenTTL) * time.Second,
		BcryptCost: int(m.cfg.BcryptCost), ClientCertAuth: m.cfg.ClientTLS.ClientCertAuth,
		RequestTimeout: m.cfg.RequestTimeout(), Logger: m.log.Named("auth"),
	})
	if err != nil {
		return err
	}
	m.onClose(m.auth.Close)
	return nil
}
