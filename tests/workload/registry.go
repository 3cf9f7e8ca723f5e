package main

import (
	"archive/tar"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
)

// What a registry has of an image (OCI distribution specification 1.1): blobs by their digests, and the manifest by any tag.
type store struct {
	files    map[string][]byte
	manifest descriptor
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
}

func registry(archive, certificate, key, account string) error {
	images, err := open(archive)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	answer := func(writer http.ResponseWriter, request *http.Request) {
		status := images.answer(writer, request, account)
		fmt.Println(request.Method, request.URL.Path, status)
	}
	secured := tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}})
	return http.Serve(secured, http.HandlerFunc(answer))
}

func open(archive string) (*store, error) {
	file, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	images := &store{files: map[string][]byte{}}
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return nil, err
		}
		images.files[path.Clean(header.Name)] = content
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(images.files["index.json"], &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images", archive, len(index.Manifests))
	}
	images.manifest = index.Manifests[0]
	return images, nil
}

// Answers one request, and returns the status.
func (images *store) answer(writer http.ResponseWriter, request *http.Request, account string) int {
	user, password, _ := request.BasicAuth()
	if user+":"+password != account {
		writer.Header().Set("WWW-Authenticate", `Basic realm="images"`)
		writer.WriteHeader(http.StatusUnauthorized)
		return http.StatusUnauthorized
	}
	digest, kind := path.Base(request.URL.Path), "application/octet-stream"
	if strings.Contains(request.URL.Path, "/manifests/") {
		if !strings.HasPrefix(digest, "sha256:") {
			digest = images.manifest.Digest
		}
		kind = images.manifest.MediaType
	}
	content, found := images.files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
	if !found && request.URL.Path != "/v2/" {
		writer.WriteHeader(http.StatusNotFound)
		return http.StatusNotFound
	}
	writer.Header().Set("Content-Type", kind)
	writer.Header().Set("Content-Length", fmt.Sprint(len(content)))
	writer.Header().Set("Docker-Content-Digest", digest)
	writer.WriteHeader(http.StatusOK)
	if request.Method != http.MethodHead {
		// Who hangs up has asked for nothing more.
		_, _ = writer.Write(content)
	}
	return http.StatusOK
}
