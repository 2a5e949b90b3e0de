package gitrepo_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

// server is a git server with one repository that holds files.
func server(t *testing.T, files map[string]string) (s *gittest.Server, repoURL string) {
	t.Helper()
	s = gittest.New(t, gittest.Options{Username: "u", Password: secret})
	if err := s.CreateRepo("app", files); err != nil {
		t.Fatal(err)
	}
	return s, s.URL("app")
}

// someone runs commands in a clone that somebody else has.
func someone(t *testing.T, repoURL, script string) {
	t.Helper()
	clone := strings.Replace(repoURL, "http://", "http://u:"+secret+"@", 1)
	cmd := exec.Command("sh", "-euc", "git clone -q "+clone+" . && "+script)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=someone", "GIT_AUTHOR_EMAIL=someone@localhost", "GIT_COMMITTER_NAME=someone", "GIT_COMMITTER_EMAIL=someone@localhost",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestWhatGitAloneCannotCheckOutIsRefused(t *testing.T) {
	t.Parallel()
	_, plain := server(t, map[string]string{".gitattributes": "*.go text\n# *.bin filter=lfs\n", ".gitmodules": ""})
	if _, err := openAt(t, plain); err != nil {
		t.Errorf("without either: %v", err)
	}
	attributes := map[string]string{filepath.Join("media", ".gitattributes"): "*.txt text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"}
	_, unused := server(t, attributes)
	if _, err := openAt(t, unused); err != nil {
		t.Errorf("attributes that no file uses: %v", err)
	}
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 5\n"
	for name, files := range map[string]map[string]string{
		"macro":                           {".gitattributes": "[attr]lfs filter=lfs diff=lfs merge=lfs -text\n", "a.bin": "plain"},
		"a file that is not in LFS":       {".gitattributes": "*.bin filter=lfs\n", "a.bin": "plain", "b.bin": strings.Repeat("x", 2000)},
		"a pointer under no attribute":    {".gitattributes": "*.psd filter=lfs\n", "a.bin": pointer, "docs/lfs.txt": pointer},
		"a pattern that is unset again":   {".gitattributes": "*.bin filter=lfs\n*.bin !filter\n", "a.bin": pointer},
		"a pattern for another directory": {"media/.gitattributes": "*.bin filter=lfs\n", "a.bin": pointer},
	} {
		_, plain := server(t, files)
		if _, err := openAt(t, plain); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	attributes["media/a.bin"], attributes["media/b.bin"] = "plain", pointer
	_, lfs := server(t, attributes)
	if _, err := openAt(t, lfs); !errors.Is(err, gitrepo.ErrUnsupported) || !strings.Contains(err.Error(), "media/b.bin is stored in Git LFS") {
		t.Errorf("LFS: %v", err)
	}
	_, modules := server(t, map[string]string{"a": "b"})
	someone(t, modules, `printf '[submodule "lib"]\n\tpath = vendor/lib\n\turl = ../lib.git\n' >.gitmodules; git add .gitmodules
		git update-index --add --cacheinfo 160000,"$(git rev-parse HEAD)",vendor/lib && git commit -qm module && git push -q`)
	if _, err := openAt(t, modules); !errors.Is(err, gitrepo.ErrUnsupported) || !strings.Contains(err.Error(), "vendor/lib is a submodule") {
		t.Errorf("submodule: %v", err)
	}
}
