-- Passwords that follow others, and how far catalogues were compared. Frozen: what has been released is never edited.

ALTER TABLE "user" ADD COLUMN "password_next" TEXT;
ALTER TABLE "user" ADD COLUMN "password_former" TEXT;
ALTER TABLE "user" ADD COLUMN "former_until" INTEGER;

ALTER TABLE "librarian" ADD COLUMN "compared_upto" INTEGER;
ALTER TABLE "librarian" ADD COLUMN "adopted_upto" INTEGER;
