package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestCurl: curl itself, with the certificates of an authority and a token, puts, gets, watches, grants and locks, which is all
// that a shell script needs.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl here")
	}
	certs, err := cluster.NewCerts(t.TempDir())
	must(t, "certificates", err)
	c := startCluster(t, cluster.Options{ClientTLS: certs, Args: []string{"--bcrypt-cost=4", "--client-cert-auth=false"}})
	ctx := within(t, patience)
	url, token := c.Members[0].ClientURL, ""
	command := func(path, body string) *exec.Cmd {
		args := []string{"--silent", "--show-error", "--no-buffer", "--cacert", certs.CA, "--cert", certs.ClientCert,
			"--key", certs.ClientKey, "-X", "POST", url + "/v3/" + path, "-d", body}
		if token != "" {
			args = append(args, "-H", "Authorization: "+token)
		}
		return exec.CommandContext(ctx, curl, args...)
	}
	call := func(path, format string, args ...any) map[string]any {
		t.Helper()
		var complaint bytes.Buffer
		cmd := command(path, fmt.Sprintf(format, args...))
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, complaint.String())
		}
		answer := map[string]any{}
		if err := json.Unmarshal(out, &answer); err != nil {
			t.Fatalf("%s: %v in %s", path, err, out)
		}
		return answer
	}
	ok := func(path, format string, args ...any) map[string]any {
		t.Helper()
		answer := call(path, format, args...)
		if errorCode(answer) != 0 {
			t.Fatalf("%s: %v", path, answer)
		}
		return answer
	}
	use := func() {
		t.Helper()
		put := ok("kv/put", `{"key":%q,"value":%q}`, b64("k"), b64("v"))
		rev := put["header"].(map[string]any)["revision"].(string)
		if got := ok("kv/range", `{"key":%q}`, b64("k")); got["kvs"].([]any)[0].(map[string]any)["value"] != b64("v") {
			t.Errorf("get: %v", got)
		}
		watch := command("watch", fmt.Sprintf(`{"create_request":{"key":%q,"start_revision":%q}}`, b64("k"), rev))
		out, err := watch.StdoutPipe()
		must(t, "watch", err)
		must(t, "watch", watch.Start())
		ok("kv/put", `{"key":%q,"value":%q}`, b64("k"), b64("w"))
		lines := bufio.NewReader(out)
		wantEvents(t, "curl", func() ([]byte, error) { return lines.ReadBytes('\n') })
		must(t, "end of the watch", watch.Process.Kill())
		_ = watch.Wait() // it was killed
		lease := ok("lease/grant", `{"TTL":60}`)["ID"].(string)
		held := ok("lock/lock", `{"name":%q,"lease":%q}`, b64("lock"), lease)["key"].(string)
		if got := ok("lease/timetolive", `{"ID":%q,"keys":true}`, lease); fmt.Sprint(got["keys"]) != "["+held+"]" {
			t.Errorf("the lease of a lock holds %v, the lock is %s", got["keys"], held)
		}
		ok("lock/unlock", `{"key":%q}`, held)
		ok("lease/revoke", `{"ID":%q}`, lease)
	}
	use()
	ok("auth/user/add", `{"name":"root","password":"rootpw"}`)
	ok("auth/user/grant", `{"user":"root","role":"root"}`)
	ok("auth/enable", `{}`)
	if got := call("kv/put", `{"key":%q}`, b64("k")); !refusedBy(got, 3) {
		t.Errorf("put without a token: %v", got)
	}
	token = ok("auth/authenticate", `{"name":"root","password":"rootpw"}`)["token"].(string)
	use()
	token = strings.ToUpper(token) + "x"
	if got := call("kv/put", `{"key":%q}`, b64("k")); !refusedBy(got, 16) {
		t.Errorf("put with a forged token: %v", got)
	}
}
