package lint

import (
	"slices"
	"strings"
	"testing"
)

// floors orders the packages: a package may import its own directory and those on a higher-numbered floor. Neighbours
// on one floor do not know each other.
var floors = map[string]int{
	"tests":          0,
	"cmd":            1,
	"server":         2,
	"api":            3,
	"router":         4,
	"watch":          5,
	"lease":          6,
	"auth":           6,
	"backup":         6,
	"placement":      7,
	"shard":          8,
	"mvcc":           9,
	"multiraft":      9,
	"server/config":  10,
	"server/datadir": 10,
	"mvcc/keyspace":  11,
	"proto":          12,
	"version":        12,
	"internal":       13,
}

// room finds the longest prefix of a directory that has a floor.
func room(dir string) (name string, floor int, ok bool) {
	for name = dir; ; {
		if floor, ok = floors[name]; ok {
			return name, floor, true
		}
		cut := strings.LastIndexByte(name, '/')
		if cut < 0 {
			return "", 0, false
		}
		name = name[:cut]
	}
}

func TestImportsPointDown(t *testing.T) {
	for _, file := range goFiles(t) {
		if slices.ContainsFunc([]string{"tests/bench", "tests/etcd", "tests/backup", "tests/sim/report"}, func(m string) bool { return strings.HasPrefix(file.dir, m) }) {
			continue // modules of their own
		}
		from, floor, ok := room(file.dir)
		if !ok {
			t.Errorf("%s: the directory has no place in the house: give it a floor in internal/lint/imports_test.go", file.path)
			continue
		}
		for path, position := range file.imports(t) {
			if !strings.HasPrefix(path, module+"/") {
				continue
			}
			to, below, ok := room(strings.TrimPrefix(path, module+"/"))
			switch {
			case !ok:
				t.Errorf("%s: imports %s, which has no place in the house", position, path)
			case to != from && below <= floor:
				t.Errorf("%s: %s must not import %s: imports point down the house only", position, from, to)
			}
		}
	}
}

// onlyImporters names, for a dependency, the directories that may import it. Tests may use its test doubles anywhere.
var onlyImporters = map[string][]string{
	"github.com/lni/":                 {"multiraft"},
	"github.com/cockroachdb/pebble":   {"mvcc", "multiraft/logstore"},
	"go.etcd.io/etcd/etcdctl/":        {"cmd/kvctl"},
	"github.com/anishathalye/":        {"tests"},
	"go.etcd.io/etcd/server/v3/embed": {"tests"},
}

func TestDependenciesStayInTheirPackage(t *testing.T) {
	for _, file := range goFiles(t) {
		for path, position := range file.imports(t) {
			for prefix, owners := range onlyImporters {
				if !strings.HasPrefix(path, prefix) || file.test() {
					continue
				}
				if !slices.ContainsFunc(owners, func(owner string) bool { return file.dir == owner || strings.HasPrefix(file.dir, owner+"/") }) {
					t.Errorf("%s: only %s may import %s", position, strings.Join(owners, " and "), path)
				}
			}
		}
	}
}
