package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestPeerAllowedHostname: with --peer-cert-allowed-hostname the others take a member only if its certificate is for one of
// those names, and say so in their logs.
func TestPeerAllowedHostname(t *testing.T) {
	dir := t.TempDir()
	certs, err := cluster.NewCerts(dir)
	must(t, "authority", err)
	cert, key, err := certs.Issue(dir, "member", cluster.Subject{CommonName: "member", Hosts: []string{"localhost", "second.example"}})
	must(t, "certificate", err)
	strange, strangeKey, err := certs.Issue(dir, "strange", cluster.Subject{CommonName: "member", Hosts: []string{"localhost", "third.example"}})
	must(t, "certificate", err)
	c := newCluster(t, cluster.Options{Members: 3, PeerTLS: certs, Args: []string{
		"--peer-cert-file=" + cert, "--peer-key-file=" + key, "--peer-cert-allowed-hostname=first.example,second.example",
	}})
	inside, outside := c.Members[:2], c.Members[2]
	for _, m := range inside {
		must(t, "start", m.Start())
	}
	for _, m := range inside {
		must(t, "start", m.WaitReady(within(t, patience)))
	}
	outside.SetArgs("--peer-cert-file="+strange, "--peer-key-file="+strangeKey)
	must(t, "start", outside.Start())
	reach(t, patience, "a refusal", func() (bool, error) {
		return strings.Contains(inside[0].Log()+inside[1].Log(), "rejected connection on peer endpoint"), nil
	})
	if strings.Contains(outside.Log(), "ready to serve client requests") {
		t.Error("a member with a certificate for another host name came in")
	}
	must(t, "kill", outside.Kill())
	outside.SetArgs()
	must(t, "start", outside.Start())
	must(t, "a member with a certificate for an allowed name", outside.WaitReady(within(t, patience)))
}

// TestClientAllowedCommonName: clients are told apart by the common names of their certificates where the configuration file
// says allowed-cn, for which etcd has no flag.
func TestClientAllowedCommonName(t *testing.T) {
	dir := t.TempDir()
	certs, err := cluster.NewCerts(dir)
	must(t, "authority", err)
	c := newCluster(t, cluster.Options{})
	m := c.Members[0]
	m.ClientURL = strings.Replace(m.ClientURL, "http:", "https:", 1)
	config := filepath.Join(dir, "config.yaml")
	text := strings.NewReplacer("NAME", m.Name, "DATA", m.DataDir, "CLIENT", m.ClientURL, "PEER", m.PeerURL, "CA", certs.CA,
		"SERVERCERT", certs.ServerCert, "SERVERKEY", certs.ServerKey).Replace(`name: NAME
data-dir: DATA
listen-client-urls: CLIENT
advertise-client-urls: CLIENT
listen-peer-urls: PEER
initial-advertise-peer-urls: PEER
initial-cluster: NAME=PEER
client-transport-security:
  cert-file: SERVERCERT
  key-file: SERVERKEY
  trusted-ca-file: CA
  client-cert-auth: true
  allowed-cn: [server, alice]
`)
	must(t, "configuration", os.WriteFile(config, []byte(text), 0o600))
	m.SetArgs("--config-file=" + config)
	must(t, "start", m.Start())
	must(t, "start", m.WaitReady(within(t, patience)))
	for name, served := range map[string]bool{"alice": true, "bob": false} {
		own := *certs
		own.ClientCert, own.ClientKey, err = certs.Client(dir, name)
		must(t, "certificate", err)
		conf, err := own.ClientConfig()
		must(t, "certificate", err)
		limit := 3 * time.Second
		if served {
			limit = patience
		}
		if err := tryGet(within(t, limit), m.ClientURL, conf); served != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
