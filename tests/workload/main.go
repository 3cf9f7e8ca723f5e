// Command workload is what the tests run in pods: a server, a client and some ways to end, in one static file.
//
//	workload [serve]      HTTP on :8080. / answers the pod's name, /env the variable MESSAGE, /env/NAME any variable,
//	                      /file/PATH a file of the container, /peer the address that the request came from;
//	                      /crash ends the process with exit code 7
//	workload get URL      prints the answer; tries again for 30 s, then ends with exit code 1
//	workload lookup NAME  prints the addresses of a host name, one a line
//	workload cat PATH     prints a file
//	workload echo WORD…   prints its arguments
//	workload exit CODE    ends with that code at once
//	workload sleep        waits for SIGTERM
//	workload kill NAME    sends SIGKILL to the processes whose program has that name; needs the host's PID namespace
//	workload forks        a fork bomb: starts itself again and again, and so does each
//	workload hog          takes memory until it is ended
//	workload fill PATH    takes all room where the file is, holds it for a minute or until SIGTERM, and gives it back
//	workload write PATH TEXT   writes a file
//	workload stubborn     waits, and ends neither by SIGTERM nor by SIGINT
//	workload hang PATH    the same, and cannot be killed: it mounts a FUSE file system at PATH whose server it is, and asks itself for what it
//	                      never answers
//	workload processes    prints the arguments of all processes it can see, one process a line
//	workload census       prints what there is of a node, one thing a line: processes, descriptors of PID 1, mounts, control groups, files
//	                      of /run; needs the host's PID namespace and privileges
//
// and, on the host, where they get images from:
//
//	workload registry ARCHIVE CERTIFICATE KEY USER:PASSWORD   a registry with the image of an OCI archive, over HTTPS on a port of
//	                      127.0.0.1, which it prints first, and then each request and the status of its answer
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	arguments := append(os.Args[1:], "serve")
	if err := run(arguments[0], os.Args[min(len(os.Args), 2):]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(command string, arguments []string) error {
	switch command {
	case "serve":
		go func() {
			waitForEnd()
			os.Exit(0)
		}()
		return serve()
	case "sleep":
		waitForEnd()
		return nil
	case "stubborn":
		stubborn()
	case "forks":
		forks()
	case "hog":
		hog()
	case "write":
		if len(arguments) == 2 {
			return os.WriteFile(arguments[0], []byte(arguments[1]), 0o600)
		}
	case "processes":
		for _, process := range processes() {
			fmt.Println(strings.Join(process.arguments, " "))
		}
		return nil
	case "census":
		return census(os.Stdout)
	case "freeze":
		for _, name := range arguments {
			if err := send(syscall.SIGSTOP, name); err != nil {
				return err
			}
		}
		return nil
	case "registry":
		if len(arguments) == 4 {
			return registry(arguments[0], arguments[1], arguments[2], arguments[3])
		}
	case "echo":
		fmt.Println(strings.Join(arguments, " "))
		return nil
	}
	if len(arguments) != 1 {
		return fmt.Errorf("%q is no command, or lacks its argument", command)
	}
	switch command {
	case "get":
		return get(arguments[0])
	case "lookup":
		addresses, err := net.LookupHost(arguments[0])
		fmt.Println(strings.Join(addresses, "\n"))
		return err
	case "fill":
		return fill(arguments[0])
	case "hang":
		return hang(arguments[0])
	case "cat":
		content, err := os.ReadFile(arguments[0])
		os.Stdout.Write(content)
		return err
	case "kill":
		return send(syscall.SIGKILL, arguments[0])
	case "exit":
		code, err := strconv.Atoi(arguments[0])
		if err == nil {
			os.Exit(code)
		}
		return err
	}
	return fmt.Errorf("%q is no command", command)
}

// Never returns. A child that cannot be started is tried again: the bomb is there for what it takes from others.
func forks() {
	for {
		child := exec.Command("/workload", "forks")
		if child.Start() != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// Never returns; every page is written, so that it is really taken.
func hog() {
	var taken [][]byte
	for {
		piece := make([]byte, 4<<20)
		for at := 0; at < len(piece); at += 4096 {
			piece[at] = 1
		}
		taken = append(taken, piece)
		fmt.Println("taken", len(taken)*4, "MiB")
	}
}

// By allocation, which writes nothing: filling gigabytes by writing would take an emulated machine an hour.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	var size int64
	take := func(first, last int64) error {
		for piece := first; piece >= last; {
			err := syscall.Fallocate(int(file.Fd()), 0, size, piece)
			switch {
			case err == nil:
				size += piece
			case errors.Is(err, syscall.ENOSPC):
				piece /= 2
			case !errors.Is(err, syscall.EINTR):
				return err
			}
		}
		return nil
	}
	// What is printed is kept on the same disk.
	if err := take(1<<30, 1<<20); err != nil {
		return err
	}
	fmt.Println("no room after", size>>20, "MiB")
	time.Sleep(2 * time.Second)
	if err := take(1<<20, 4096); err != nil {
		return err
	}
	select {
	case <-end:
	case <-time.After(time.Minute):
	}
	return nil
}

// Never returns.
func stubborn() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("waiting for SIGKILL")
	select {}
}

func waitForEnd() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}

type process struct {
	id        int
	arguments []string
}

// Processes that end meanwhile are left out, and so are kernel threads, which have no arguments.
func processes() []process {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []process
	for _, path := range paths {
		content, err := os.ReadFile(path)
		id, notNumber := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil || notNumber != nil || len(content) == 0 {
			continue
		}
		found = append(found, process{id, strings.Split(strings.TrimRight(string(content), "\x00"), "\x00")})
	}
	return found
}

func send(signal syscall.Signal, name string) error {
	sent := 0
	for _, process := range processes() {
		if filepath.Base(process.arguments[0]) != name {
			continue
		}
		if err := syscall.Kill(process.id, signal); err != nil {
			return err
		}
		sent++
	}
	if sent == 0 {
		return fmt.Errorf("no process is called %s", name)
	}
	fmt.Println(signal, "sent to", sent)
	return nil
}

func serve() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name)
	})
	http.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, os.Getenv("MESSAGE"))
	})
	http.HandleFunc("GET /env/{name}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, os.Getenv(r.PathValue("name")))
	})
	http.HandleFunc("GET /file/{path...}", func(w http.ResponseWriter, r *http.Request) {
		content, err := os.ReadFile("/" + r.PathValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Write(content)
	})
	http.HandleFunc("GET /peer", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, host)
	})
	http.HandleFunc("GET /crash", func(http.ResponseWriter, *http.Request) {
		os.Exit(7)
	})
	fmt.Println("workload: serving on :8080 as", name)
	return http.ListenAndServe(":8080", nil)
}

func get(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := getOnce(&client, url)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(time.Second)
	}
}

func getOnce(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, answer.Status, body)
	}
	_, err = os.Stdout.Write(body)
	return err
}
