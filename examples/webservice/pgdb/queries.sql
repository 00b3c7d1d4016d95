-- name: ListItems :many
SELECT * FROM items ORDER BY id DESC LIMIT $1;

-- name: CreateItem :one
INSERT INTO items (name, quantity) VALUES ($1, $2) RETURNING *;

-- name: GetItem :one
SELECT * FROM items WHERE id = $1;

-- name: GetAccount :one
SELECT * FROM accounts WHERE id = $1;

-- name: LockAccount :one
SELECT * FROM accounts WHERE id = $1 FOR UPDATE;

-- name: ChangeBalance :exec
UPDATE accounts SET balance = balance + sqlc.arg(change_by) WHERE id = sqlc.arg(id);

-- name: CreateTransfer :one
INSERT INTO transfers (from_account, to_account, amount) VALUES ($1, $2, $3) RETURNING id;
