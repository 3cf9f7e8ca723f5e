package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
)

// The messages of FUSE are fuse(4)'s: a header of 40 bytes before what is asked, one of 16 before what is answered.
const (
	fuseInit         = 26
	fuseMajor        = 7
	fuseMinor        = 31
	fuseReadMin      = 8192
	fuseAnswerHeader = 16
	fuseInitAnswer   = 64
)

// Returns only with an error. Whoever has sent a request that the server has read waits for its answer whatever signal comes. The server is
// this process, so that what would free it, the closing of /dev/fuse, waits for it in turn.
func hang(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	device, err := syscall.Open("/dev/fuse", syscall.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("/dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)
	if err := syscall.Mount("workload", path, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting at %s: %w", path, err)
	}
	if err := answerInit(device); err != nil {
		return err
	}
	go func() {
		_, err := os.Stat(path + "/nothing")
		fmt.Println("it was answered:", err)
		os.Exit(1)
	}()
	request := make([]byte, fuseReadMin)
	if _, err := syscall.Read(device, request); err != nil {
		return fmt.Errorf("reading a request: %w", err)
	}
	stubborn()
	return nil
}

func answerInit(device int) error {
	request := make([]byte, fuseReadMin)
	if _, err := syscall.Read(device, request); err != nil {
		return fmt.Errorf("reading the first request: %w", err)
	}
	order := binary.NativeEndian
	if code := order.Uint32(request[4:]); code != fuseInit {
		return fmt.Errorf("the first request is %d", code)
	}
	answer := make([]byte, fuseAnswerHeader+fuseInitAnswer)
	order.PutUint32(answer, uint32(len(answer)))
	copy(answer[8:16], request[8:16])
	order.PutUint32(answer[16:], fuseMajor)
	order.PutUint32(answer[20:], fuseMinor)
	_, err := syscall.Write(device, answer)
	return err
}
