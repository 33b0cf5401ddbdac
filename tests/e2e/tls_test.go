package e2e

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestTLS: with certificates for clients and among members, who has one is served and nobody else is.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certs, err := cluster.NewCerts(dir)
	if err != nil {
		t.Fatal(err)
	}
	foreignDir := t.TempDir()
	foreign, err := cluster.NewCerts(foreignDir)
	if err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, cluster.Options{Members: 3, ClientTLS: certs, PeerTLS: certs})
	for _, m := range c.Members {
		cli := client(t, c, m)
		if _, err := cli.Put(within(t, patience), "k", m.Name); err != nil {
			t.Errorf("through %s: %v", m.Name, err)
		}
		w := cli.Watch(within(t, patience), "k", clientv3.WithCreatedNotify())
		if resp := <-w; !resp.Created {
			t.Errorf("watch through %s: %v", m.Name, resp)
		}
	}
	out, err := run(t, binaries.etcdctl, "--endpoints="+strings.Join(c.Endpoints(), ","), "--cacert="+certs.CA, "--cert="+certs.ClientCert, "--key="+certs.ClientKey, "get", "k", "--print-value-only")
	if err != nil || out != "m3\n" {
		t.Errorf("etcdctl: %v\n%s", err, out)
	}
	anonymous, err := certs.AnonymousConfig()
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := foreign.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := certs.AnonymousConfig()
	if err != nil {
		t.Fatal(err)
	}
	wrong.RootCAs = trusted.RootCAs
	for name, conf := range map[string]*tls.Config{"no certificate": anonymous, "a foreign certificate": wrong, "plain text": nil} {
		url := c.Members[0].ClientURL
		if conf == nil {
			url = "http://" + c.Members[0].Address
		}
		if err := tryGet(within(t, 3*time.Second), url, conf); err == nil {
			t.Errorf("a client with %s was served", name)
		}
	}
	own, err := certs.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	if err := tryGet(within(t, patience), c.Members[0].ClientURL, own); err != nil {
		t.Errorf("a client with a certificate after those without: %v", err)
	}
}

// tryGet sends one read with a TLS configuration of its own.
func tryGet(ctx context.Context, url string, conf *tls.Config) error {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, TLS: conf, DialTimeout: time.Second, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer cli.Close()
	_, err = cli.Get(ctx, "k")
	return err
}
