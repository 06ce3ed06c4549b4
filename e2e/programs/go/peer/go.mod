module heddle.dev/e2e/peer

go 1.24
