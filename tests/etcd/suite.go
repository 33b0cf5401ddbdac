package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// suite is etcd's tests, built and ready to run.
type suite struct {
	bin  string // etcd, etcdctl, etcdutl, common.test
	logs string
	// work holds fixtures/ and the directory of the tests, beside each other as in etcd's tree. Members inherit it as
	// their working directory, which tells them from all other processes of the machine.
	work string
}

// testTimeout ends a test that hangs. The longest take a few minutes where they have many parts.
const testTimeout = 5 * time.Minute

const (
	testsModule  = "go.etcd.io/etcd/tests/v3"
	testsPackage = testsModule + "/common"
)

// build makes the binaries. Go's cache makes it quick from the second time on.
func build(ctx context.Context, o *options) (*suite, error) {
	kvd, err := filepath.Abs(o.kvd)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(kvd); err != nil {
		return nil, fmt.Errorf("the kvd binary: %w", err)
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	s := &suite{bin: filepath.Join(dir, "bin"), logs: filepath.Join(dir, "log")}
	for _, d := range []string{s.bin, s.logs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	etcd := filepath.Join(s.bin, "etcd")
	if err := os.Remove(etcd); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.Symlink(kvd, etcd); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"build", "-buildvcs=false", "-o", s.etcdctl(), "go.etcd.io/etcd/etcdctl/v3"},
		{"build", "-buildvcs=false", "-o", filepath.Join(s.bin, "etcdutl"), "go.etcd.io/etcd/etcdutl/v3"},
		{"test", "-c", "-buildvcs=false", "-tags", "e2e", "-o", s.test(), testsPackage},
	} {
		if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", testsModule).Output()
	if err != nil {
		return nil, fmt.Errorf("find the module of etcd's tests: %w", err)
	}
	return s, s.furnish(strings.TrimSpace(string(out)))
}

// furnish makes the working directory. The module's own cannot serve: tests put sockets there.
func (s *suite) furnish(module string) error {
	work, err := os.MkdirTemp("", "kvd-test-etcd-")
	if err != nil {
		return err
	}
	s.work = work
	if err := os.Mkdir(filepath.Join(work, "common"), 0o755); err != nil {
		return err
	}
	return os.CopyFS(s.fixtures(), os.DirFS(filepath.Join(module, "fixtures")))
}

func (s *suite) etcdctl() string  { return filepath.Join(s.bin, "etcdctl") }
func (s *suite) test() string     { return filepath.Join(s.bin, "common.test") }
func (s *suite) fixtures() string { return filepath.Join(s.work, "fixtures") }

func (s *suite) log(m mode) string { return filepath.Join(s.logs, m.name+".log") }

func (s *suite) close() {
	s.killMembers()
	if err := os.RemoveAll(s.work); err != nil {
		fmt.Fprintln(os.Stderr, "test-etcd:", err)
	}
}

func (s *suite) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"tool", "test2json", "-t", s.test(), "-test.v=test2json", "-bin-dir", s.bin, "-cert-dir", s.fixtures()}, args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(s.work, "common")
	// The tests and what they started end with the group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Env = os.Environ()
	return cmd
}

var testName = regexp.MustCompile(`^Test\w+$`)

// list names all tests, in the order in which they run.
func (s *suite) list(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, s.test(), "-test.list", ".", "-bin-dir", s.bin)
	cmd.Dir = filepath.Join(s.work, "common")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("list the tests: %w\n%s", err, out)
	}
	var names []string
	for line := range strings.SplitSeq(string(out), "\n") {
		if testName.MatchString(line) {
			names = append(names, line)
		}
	}
	return names, nil
}

// run runs tests in a mode, each in a process of its own: after one that leaves goroutines behind, etcd's tests skip
// themselves. A test that was not begun before the budget was spent has no result.
func (s *suite) run(ctx context.Context, m mode, names []string, list expected, o *options) (map[string]*result, error) {
	log, err := os.Create(s.log(m))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	started := time.Now()
	spent := func() bool { return o.budget > 0 && time.Since(started) > o.budget }
	results := map[string]*result{}
	for _, name := range names {
		if spent() {
			break
		}
		tries := o.tries
		if _, known := list[name][m.name]; known {
			tries = 1
		}
		began := time.Now()
		r, err := retry(tries, spent, func(n int) (*result, error) {
			r, err := s.try(ctx, m, name, log)
			if err == nil && r.failed() {
				fmt.Printf("%s/%s: %s at try %d (%.1fs)\n", m.name, name, r.fault, n, time.Since(began).Seconds())
			}
			return r, err
		})
		if err != nil {
			return nil, err
		}
		if o.lenient {
			if err := s.excuse(ctx, r); err != nil {
				return nil, err
			}
		}
		results[name] = r
		fmt.Printf("%s/%s: %s (%.1fs)\n", m.name, name, r.verdict(), time.Since(began).Seconds())
	}
	return results, nil
}

// retry tries a test until it does not fail, as often as is allowed: the result of the last try, which knows those
// before. Two tries every test has that may have more than one, however little time is left.
func retry(tries int, spent func() bool, try func(n int) (*result, error)) (*result, error) {
	var before []*result
	for n := 1; ; n++ {
		r, err := try(n)
		if err != nil {
			return nil, err
		}
		r.before = before
		if !r.failed() || n >= tries || (n >= 2 && spent()) {
			return r, nil
		}
		before = append(before, r)
	}
}

// try runs a test and tells what came of it.
func (s *suite) try(ctx context.Context, m mode, name string, log *os.File) (*result, error) {
	results := map[string]*result{}
	err := s.runOne(ctx, m, name, log, results)
	s.killMembers()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r := results[name]
	switch {
	case r == nil:
		return nil, fmt.Errorf("%s did not run: %w; see %s", name, err, log.Name())
	case !r.ended:
		r.ended, r.fault = true, "ends the process"
	case err != nil && r.passed():
		r.fault = fmt.Sprintf("passes, but its process fails (%v)", err)
	}
	return r, nil
}

// runOne runs a test and adds to results what came of it.
func (s *suite) runOne(ctx context.Context, m mode, name string, log *os.File, results map[string]*result) error {
	cmd := s.command(ctx, "-test.timeout="+testTimeout.String(), "-test.run", "^"+name+"$")
	cmd.Env = append(cmd.Env, m.env...)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintf(log, "%s\n", lines.Bytes())
			continue
		}
		if e.Action == "output" {
			fmt.Fprint(log, e.Output)
		}
		take(results, &e)
	}
	return errors.Join(lines.Err(), cmd.Wait())
}
