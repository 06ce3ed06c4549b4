// An HTTP server that answers with the address of its client, as Go's standard library sees it. It listens the way every
// net/http server does: since Go 1.24 with MPTCP.
package main

import (
	"fmt"
	"log"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	log.Fatal(http.ListenAndServe(":8080", nil))
}
