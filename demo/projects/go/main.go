package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Printf("hello from Go on %s/%s, as %d\n", runtime.GOOS, runtime.GOARCH, os.Getuid())
}
