package lint

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The pattern is put together so that it does not find itself.
var leftToDo = regexp.MustCompile(`\b(` + strings.Join([]string{"TO" + "DO", "FIX" + "ME", "XX" + "X"}, "|") + `)\b`)

func TestNothingIsLeftToDo(t *testing.T) {
	top := root(t)
	for _, path := range files(t) {
		switch filepath.Ext(path) {
		case ".go", ".md", ".proto", ".sh", ".yaml", ".mod":
		default:
			if base := filepath.Base(path); base != "Makefile" && base != "run" {
				continue
			}
		}
		content, err := os.ReadFile(filepath.Join(top, path))
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		for number, line := range bytes.Split(content, []byte("\n")) {
			if leftToDo.Match(line) {
				t.Errorf("%s:%d: do it, or describe the limit in prose", path, number+1)
			}
		}
	}
}

func TestNoTestSleeps(t *testing.T) {
	for _, file := range goFiles(t) {
		// In a bubble of testing/synctest a sleep moves the fake clock and waits for nothing.
		if _, fake := file.imports(t)["testing/synctest"]; fake || !file.test() {
			continue
		}
		ast.Inspect(file.syntax, func(node ast.Node) bool {
			selector, ok := node.(*ast.SelectorExpr)
			if !ok || selector.Sel.Name != "Sleep" {
				return true
			}
			if base, ok := selector.X.(*ast.Ident); ok && base.Name == "time" {
				t.Errorf("%s: a test waits for a condition, never for a while", file.positions.Position(node.Pos()))
			}
			return true
		})
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	type directory struct{ written, documented bool }
	directories := make(map[string]*directory)
	for _, file := range goFiles(t) {
		found := directories[file.dir]
		if found == nil {
			found = &directory{}
			directories[file.dir] = found
		}
		found.written = found.written || !file.generated
		if filepath.Base(file.path) == "doc.go" && file.syntax.Doc != nil && len(file.syntax.Doc.Text()) > 80 {
			found.documented = true
		}
	}
	for dir, found := range directories {
		if found.written && !found.documented {
			t.Errorf("%s: no doc.go that says what the package owns, promises and must never do", dir)
		}
	}
}

// required matches a direct requirement of go.mod.
var required = regexp.MustCompile(`(?m)^\t(\S+) v\S+$`)

func TestEveryDependencyHasItsReason(t *testing.T) {
	top := root(t)
	mod, err := os.ReadFile(filepath.Join(top, "go.mod"))
	require.NoError(t, err)
	page, err := os.ReadFile(filepath.Join(top, "docs", "dependencies.md"))
	require.NoError(t, err)
	direct := required.FindAllSubmatch(mod, -1)
	require.NotEmpty(t, direct)
	for _, match := range direct {
		if !bytes.Contains(page, append(append([]byte("`"), match[1]...), '`')) {
			t.Errorf("docs/dependencies.md: no line says why kvd needs %s", match[1])
		}
	}
}
