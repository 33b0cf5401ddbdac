package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/kvd-io/kvd"

// goFile is one parsed Go file of the repository.
type goFile struct {
	path      string // relative to the root, with slashes
	dir       string // relative to the root, "." for the root
	syntax    *ast.File
	positions *token.FileSet
	generated bool
}

func (f *goFile) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// imports answers the paths that the file imports, with their positions.
func (f *goFile) imports(t *testing.T) map[string]token.Position {
	found := make(map[string]token.Position)
	for _, spec := range f.syntax.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		found[path] = f.positions.Position(spec.Pos())
	}
	return found
}

// root is the directory of go.mod.
func root(t *testing.T) string {
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		require.NotEqual(t, dir, parent, "no go.mod above the working directory")
		dir = parent
	}
}

// files answers the paths of the repository's own files, relative to the root, without what is built or stored there.
func files(t *testing.T) []string {
	top := root(t)
	var found []string
	require.NoError(t, filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // removed while we walked: somebody's temporary file
			}
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != top && (name == "bin" || name == "testdata" || strings.HasPrefix(name, ".") && name != ".ci" ||
				strings.HasSuffix(name, ".etcd") || strings.HasSuffix(name, ".kvd")) {
				return filepath.SkipDir
			}
			return nil
		}
		relative, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		found = append(found, filepath.ToSlash(relative))
		return nil
	}))
	require.NotEmpty(t, found)
	return found
}

// goFiles parses all Go files of the repository, those of its other modules included.
func goFiles(t *testing.T) []*goFile {
	top := root(t)
	var parsed []*goFile
	for _, path := range files(t) {
		if !strings.HasSuffix(path, ".go") {
			continue
		}
		positions := token.NewFileSet()
		syntax, err := parser.ParseFile(positions, filepath.Join(top, path), nil, parser.ParseComments)
		require.NoError(t, err)
		parsed = append(parsed, &goFile{
			path: path, dir: filepath.ToSlash(filepath.Dir(path)),
			syntax: syntax, positions: positions, generated: ast.IsGenerated(syntax),
		})
	}
	require.NotEmpty(t, parsed)
	return parsed
}
