package clients_test

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/mysqldialect"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// sqlx: named parameters, structs, a prepared statement kept for good, and transactions.
func TestSQLX(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		driver := map[string]string{"mysql": "mysql", "postgres": "pgx"}[s.kind] // for the kind of placeholders
		db := sqlx.NewDb(s.DB, driver)
		create(t, s, "sqlx_items")
		type item struct {
			ID    int64  `db:"id"`
			Name  string `db:"name"`
			Count int    `db:"n"`
		}
		kept, err := db.PreparexContext(t.Context(), db.Rebind("SELECT n FROM sqlx_items WHERE name = ?"))
		kit.Check(t, err)
		defer func() { kit.Check(t, kept.Close()) }()
		s.through(t, func(ctx context.Context, worker, n int) error {
			name := fmt.Sprintf("%d.%d", worker, n)
			tx, err := db.BeginTxx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.NamedExecContext(ctx, "INSERT INTO sqlx_items (name, n) VALUES (:name, :n)", item{Name: name, Count: n}); err != nil {
				return err
			}
			if err := tx.Commit(); err != nil {
				return err
			}
			var got []item
			if err := db.SelectContext(ctx, &got, db.Rebind("SELECT * FROM sqlx_items WHERE name = ?"), name); err != nil {
				return err
			}
			var count int
			if err := kept.GetContext(ctx, &count, name); err != nil {
				return err
			}
			if len(got) != 1 || got[0].Count != n || count != n {
				return fmt.Errorf("%w: %+v, %d", errWrong, got, count)
			}
			return nil
		})
	})
}

// create makes a table with the owner's rights.
func create(t *testing.T, s *service, table string) {
	t.Helper()
	id := map[string]string{"mysql": "bigint AUTO_INCREMENT PRIMARY KEY", "postgres": "bigserial PRIMARY KEY"}[s.kind]
	_, err := s.ExecContext(t.Context(), "CREATE TABLE "+table+" (id "+id+", name varchar(100) NOT NULL, n bigint NOT NULL)")
	kit.Check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
		defer cancel()
		_, err := s.ExecContext(ctx, "DROP TABLE "+table)
		kit.Check(t, err)
	})
}

// gormItem is a GORM model.
type gormItem struct {
	ID        uint64
	Name      string `gorm:"size:100;index"`
	N         int
	CreatedAt time.Time
}

// GORM, with its cache of prepared statements and its own transactions.
func TestGORM(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		dialector := mysql.New(mysql.Config{Conn: s.DB})
		if s.kind == "postgres" {
			dialector = postgres.New(postgres.Config{Conn: s.DB})
		}
		db, err := gorm.Open(dialector, &gorm.Config{PrepareStmt: true, Logger: logger.Discard})
		kit.Check(t, err)
		kit.Check(t, db.AutoMigrate(&gormItem{}))
		t.Cleanup(func() { kit.Check(t, db.Migrator().DropTable(&gormItem{})) })
		s.through(t, func(ctx context.Context, worker, n int) error {
			item := gormItem{Name: fmt.Sprintf("%d.%d", worker, n), N: n}
			var got gormItem
			err := db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
				if err := tx.Create(&item).Error; err != nil {
					return err
				}
				return tx.Model(&item).Update("n", n+1).Error
			})
			if err != nil {
				return err
			}
			if err := db.WithContext(ctx).Where("name = ?", item.Name).First(&got).Error; err != nil {
				return err
			}
			if got.ID != item.ID || got.N != n+1 {
				return fmt.Errorf("%w: %+v", errWrong, got)
			}
			return nil
		})
		if cached, ok := db.ConnPool.(*gorm.PreparedStmtDB); ok {
			cached.Close()
		}
	})
}

// bunItem is a bun model.
type bunItem struct {
	bun.BaseModel `bun:"table:bun_items"`
	ID            int64 `bun:",pk,autoincrement"`
	Name          string
	N             int
}

// bun, which writes arguments into the query itself.
func TestBun(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		db := bun.NewDB(s.DB, mysqldialect.New())
		if s.kind == "postgres" {
			db = bun.NewDB(s.DB, pgdialect.New())
		}
		create(t, s, "bun_items")
		s.through(t, func(ctx context.Context, worker, n int) error {
			item := &bunItem{Name: fmt.Sprintf("%d.%d", worker, n), N: n}
			err := db.RunInTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.NewInsert().Model(item).Exec(ctx)
				return err
			})
			if err != nil {
				return err
			}
			got := new(bunItem)
			if err := db.NewSelect().Model(got).Where("name = ?", item.Name).Scan(ctx); err != nil {
				return err
			}
			if got.N != n || got.ID != item.ID {
				return fmt.Errorf("%w: %+v", errWrong, got)
			}
			return nil
		})
	})
}

//go:embed migrations
var migrations embed.FS

// goose, up and down while credentials are replaced. On PostgreSQL it holds a session lock meanwhile.
func TestGoose(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		dialect := map[string]goose.Dialect{"mysql": goose.DialectMySQL, "postgres": goose.DialectPostgres}[s.kind]
		files, err := fs.Sub(migrations, "migrations/goose/"+s.kind)
		kit.Check(t, err)
		p, err := goose.NewProvider(dialect, s.DB, files)
		kit.Check(t, err)
		t.Cleanup(func() {
			_, err := s.ExecContext(context.WithoutCancel(t.Context()), "DROP TABLE IF EXISTS goose_db_version")
			kit.Check(t, err)
		})
		s.through(t, func(ctx context.Context, worker, _ int) error {
			if worker > 0 {
				var one int
				return s.QueryRowContext(ctx, "SELECT 1").Scan(&one)
			}
			up, err := p.Up(ctx)
			if err != nil {
				return err
			}
			down, err := p.DownTo(ctx, 0)
			if err == nil && (len(up) != 2 || len(down) != 2) {
				return fmt.Errorf("%w: %d migrations up and %d down", errWrong, len(up), len(down))
			}
			return err
		})
	})
}
