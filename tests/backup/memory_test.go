package backup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
	"github.com/stretchr/testify/require"
)

// memoryBound is what a save and a restore may take, whatever the size of the store.
const memoryBound = 256 << 20

// TestMemory saves a store of KVD_BACKUP_MB megabytes on a member that has just been started, with an empty block cache, and restores the file. It is
// about stores that are larger than the bound, and takes minutes.
func TestMemory(t *testing.T) {
	mb, err := strconv.Atoi(os.Getenv("KVD_BACKUP_MB"))
	if err != nil {
		t.Skip("set KVD_BACKUP_MB to the size of the store")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kvctl := bin(t, "KVD_TEST_KVCTL", "github.com/kvd-io/kvd/cmd/kvctl")
	c, err := cluster.Start(ctx, cluster.Options{Binary: bin(t, "KVD_TEST_BIN", "github.com/kvd-io/kvd/cmd/kvd")})
	require.NoError(t, err)
	defer c.Close()
	m := c.Members[0]
	cl := client(t, c)
	const valueBytes, parallel = 16 << 10, 32
	var wg sync.WaitGroup
	for p := range parallel {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(p), 1))
			value := make([]byte, valueBytes)
			for i := p; i < mb<<20/valueBytes; i += parallel {
				for j := range value {
					value[j] = byte(rng.Uint32())
				}
				_, err := cl.Put(ctx, fmt.Sprintf("key/%d/%08d", rng.Uint32()%1000, i), string(value))
				if !check(t, err) {
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		run(t, kvctl, "--endpoints", m.ClientURL, "shard", "split", fmt.Sprintf("key/%d", 3*i+2))
	}
	require.NoError(t, m.Stop(ctx))
	require.NoError(t, c.StartAll(ctx))
	_, err = cl.Get(ctx, "key/")
	require.NoError(t, err)

	idle, err := cluster.RSS(m.Pid())
	require.NoError(t, err)
	peak, done := idle, make(chan struct{})
	wg.Go(func() {
		for {
			if now, err := cluster.RSS(m.Pid()); err == nil {
				peak = max(peak, now)
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-done:
				return
			}
		}
	})
	file := filepath.Join(t.TempDir(), "db")
	began := time.Now()
	run(t, kvctl, "--endpoints", m.ClientURL, "snapshot", "save", file)
	saved := time.Since(began)
	close(done)
	wg.Wait()
	info, err := os.Stat(file)
	require.NoError(t, err)

	began = time.Now()
	cmd := exec.Command(kvctl, "snapshot", "restore", file, "--data-dir", filepath.Join(t.TempDir(), "data"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	restore := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	t.Logf("file of %d MiB: saved in %v with %d MiB above %d MiB, restored in %v with %d MiB",
		info.Size()>>20, saved.Round(time.Millisecond), (peak-idle)>>20, idle>>20, time.Since(began).Round(time.Millisecond), restore>>20)
	require.Less(t, peak-idle, int64(memoryBound))
	require.Less(t, restore, int64(memoryBound))
}

// check is require.NoError for other goroutines than the test's.
func check(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}
