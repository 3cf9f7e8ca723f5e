package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Ids that are drawn by chance or counted up; what is named by them is told by its form.
var byChance = regexp.MustCompile(`[0-9a-f]{32,}|[0-9]+`)

const root = "/proc/1/root"

// Prints what there is of a node. Two of them differ by what came in between, and by what was on its way.
func census(out io.Writer) error {
	told := bufio.NewWriter(out)
	if err := tellProcesses(told); err != nil {
		return err
	}
	descriptors, err := os.ReadDir("/proc/1/fd")
	if err != nil {
		return err
	}
	for _, descriptor := range descriptors {
		if target, err := os.Readlink("/proc/1/fd/" + descriptor.Name()); err == nil {
			fmt.Fprintln(told, "descriptor of PID 1:", byForm(target))
		}
	}
	mounts, err := os.ReadFile("/proc/1/mounts")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(mounts)), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 {
			fmt.Fprintln(told, "mount:", fields[2], byForm(fields[1]))
		}
	}
	if err := tellTree(told, "control group:", "/sys/fs/cgroup", fs.DirEntry.IsDir); err != nil {
		return err
	}
	isFile := func(entry fs.DirEntry) bool { return !entry.IsDir() }
	if err := tellTree(told, "file:", "/run", isFile); err != nil {
		return err
	}
	return told.Flush()
}

// Kernel threads are children of PID 2, which is one itself.
func tellProcesses(told io.Writer) error {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		text := string(content)
		begin, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
		if err != nil || begin < 0 || end < begin {
			continue
		}
		// The state and the parent follow the name, which may have spaces: proc_pid_stat(5).
		fields := strings.Fields(text[end+1:])
		if len(fields) < 2 || fields[1] == "2" || strings.HasPrefix(text, "2 ") {
			continue
		}
		kind := "process:"
		if fields[0] == "Z" {
			kind = "zombie:"
		}
		fmt.Fprintln(told, kind, text[begin+1:end])
	}
	return nil
}

// What goes while it is looked at is left out.
func tellTree(told io.Writer, kind, folder string, is func(fs.DirEntry) bool) error {
	if _, err := os.Stat(root + folder); err != nil {
		return err
	}
	return filepath.WalkDir(root+folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && is(entry) {
			fmt.Fprintln(told, kind, byForm(strings.TrimPrefix(path, root)))
		}
		return nil
	})
}

func byForm(name string) string {
	return byChance.ReplaceAllString(name, "N")
}
