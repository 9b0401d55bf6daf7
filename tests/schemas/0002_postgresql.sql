-- The catalog of the release that made the table of checks, on postgresql, with rows.
SET TIME ZONE 'UTC';
CREATE TABLE run ( run_id VARCHAR NOT NULL, seq INTEGER NOT NULL, kind VARCHAR NOT NULL, job VARCHAR NOT NULL, status VARCHAR NOT NULL, started_at TIMESTAMP WITH TIME ZONE NOT NULL, finished_at TIMESTAMP WITH TIME ZONE, archive VARCHAR, message VARCHAR, options JSON NOT NULL, counts JSON NOT NULL, PRIMARY KEY (run_id), UNIQUE (job, seq) );
CREATE INDEX ix_run_kind ON run (kind);
CREATE INDEX ix_run_job ON run (job);
CREATE INDEX ix_run_status ON run (status);
CREATE INDEX ix_run_seq ON run (seq);
CREATE TABLE verification ( id SERIAL NOT NULL, archive VARCHAR NOT NULL, run_id VARCHAR NOT NULL, checked_at TIMESTAMP WITH TIME ZONE NOT NULL, status VARCHAR NOT NULL, percent FLOAT NOT NULL, slice INTEGER NOT NULL, slices INTEGER NOT NULL, members INTEGER NOT NULL, damaged INTEGER NOT NULL, PRIMARY KEY (id) );
CREATE INDEX ix_verification_archive ON verification (archive);
CREATE INDEX ix_verification_run_id ON verification (run_id);
INSERT INTO run (run_id, seq, kind, job, status, started_at, finished_at, archive, message, options, counts) VALUES
('11111111-0000-4000-8000-000000000001', 1, 'backup', 'docs', 'success', '2026-11-20 10:00:00.000000', '2026-11-20 10:00:05.250000', '/backups/docs_1.zip', NULL, '{"level": 2, "exclude": ["*.tmp"]}', '{"new": 3}'),
('11111111-0000-4000-8000-000000000002', 2, 'backup', 'docs', 'failed', '2026-11-20 11:00:00.000000', '2026-11-20 11:00:01.000000', NULL, 'disk full', '{"level": 2}', '{}'),
('11111111-0000-4000-8000-000000000003', 1, 'restore', '/b\xff \\ \\xff', 'running', '2026-11-20 12:00:00.000000', NULL, NULL, NULL, '{"job": "\udcff"}', '{}');

INSERT INTO verification (id, archive, run_id, checked_at, status, percent, slice, slices, members, damaged) VALUES
(1, '/backups/docs_1.zip', '11111111-0000-4000-8000-000000000009', '2026-11-20 13:00:00.000000', 'success', 5.0, 3, 20, 17, 0),
(2, '/backups/docs_1.zip', '11111111-0000-4000-8000-000000000010', '2026-11-20 14:00:00.000000', 'damaged', 100.0, 0, 1, 300, 2);
SELECT setval('verification_id_seq', 2);
