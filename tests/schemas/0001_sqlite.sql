-- The catalog of the release that made its first tables, on sqlite, with rows.
CREATE TABLE run ( run_id VARCHAR NOT NULL, seq INTEGER NOT NULL, kind VARCHAR NOT NULL, job VARCHAR NOT NULL, status VARCHAR NOT NULL, started_at DATETIME NOT NULL, finished_at DATETIME, archive VARCHAR, message VARCHAR, options JSON NOT NULL, counts JSON NOT NULL, PRIMARY KEY (run_id), UNIQUE (job, seq) );
CREATE INDEX ix_run_seq ON run (seq);
CREATE INDEX ix_run_kind ON run (kind);
CREATE INDEX ix_run_job ON run (job);
CREATE INDEX ix_run_status ON run (status);
INSERT INTO run (run_id, seq, kind, job, status, started_at, finished_at, archive, message, options, counts) VALUES
('11111111-0000-4000-8000-000000000001', 1, 'backup', 'docs', 'success', '2026-11-20 10:00:00.000000', '2026-11-20 10:00:05.250000', '/backups/docs_1.zip', NULL, '{"level": 2, "exclude": ["*.tmp"]}', '{"new": 3}'),
('11111111-0000-4000-8000-000000000002', 2, 'backup', 'docs', 'failed', '2026-11-20 11:00:00.000000', '2026-11-20 11:00:01.000000', NULL, 'disk full', '{"level": 2}', '{}'),
('11111111-0000-4000-8000-000000000003', 1, 'restore', '/b\xff \\ \\xff', 'running', '2026-11-20 12:00:00.000000', NULL, NULL, NULL, '{"job": "\udcff"}', '{}');
